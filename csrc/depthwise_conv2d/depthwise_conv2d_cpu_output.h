// What the packed forward and input gradient do after the tiles: activations, conversion, and the
// order of the output in memory.
// Included after the tile and pack headers, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// A region of the output that one call of a register tile computes.
template <class A>
struct Region {
  int64_t n, channel, row, rows, col;
  int tile_rows, tile_cols;
  const A* weights;
  const A* bias;
};

template <class T>
class StencilOutput {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;

 public:
  // `rows` are the row buffers of the scratch memory.
  StencilOutput(const StencilTask& task, A* rows, bool epilogue)
      : t_(task), rows_(rows), epilogue_(epilogue) {}

  // The buffered tile of phase (a, b) to vectors of channels, the first of which is `pixel`.
  void store_channels(const Region<A>& region, int64_t a, int64_t b, int cols, T* pixel) const {
    const Strides4 &s = t_.output_strides, &g = t_.grad_strides;
    const int lanes = static_cast<int>(min64(L, t_.channels - region.channel));
    const T* grad = static_cast<const T*>(t_.grad);
    if (grad) {
      grad += region.n * g.n + region.channel * g.c + (a + region.row * t_.rows.phases) * g.h +
              (b + region.col * t_.cols.phases) * g.w;
    }
    for (int r = 0; r < region.tile_rows; ++r) {
      for (int v = 0; v < cols; ++v) {
        Vec<A> factor{};
        if (grad) {
          const T* p = grad + r * t_.rows.phases * g.h + v * t_.cols.phases * g.w;
          factor = lanes == L && g.c == 1 ? load(p) : load_part(p, g.c, lanes);
        }
        const Vec<A> value = finish(load_acc(rows_ + (r * kMaxCols + v) * L), factor);
        T* p = pixel + r * t_.rows.phases * s.h + v * t_.cols.phases * s.w;
        if (lanes == L && s.c == 1) {
          store(p, value);
        } else {
          store_part(p, s.c, value, lanes);
        }
      }
    }
  }

  // n output pixels of each row of the region, from the buffers of all column phases.
  void store_rows(const Region<A>& region, int64_t a, int64_t n, T* out) const {
    const Strides4 &s = t_.output_strides, &g = t_.grad_strides;
    const int64_t phases = t_.cols.phases;
    constexpr int64_t kBuffer = kMaxRows * kMaxCols * L;
    A* merged = rows_ + phases * kBuffer;
    for (int r = 0; r < region.tile_rows; ++r, out += t_.rows.phases * s.h) {
      A* row = rows_ + r * kMaxCols * L;
      if (t_.grad) {
        A* factor = merged;
        const T* p = static_cast<const T*>(t_.grad) + region.n * g.n + region.channel * g.c +
                     (region.row + r) * g.h + region.col * g.w;
        if (g.w == 1) {
          widen_row(factor, p, n);
        } else {
          for (int64_t i = 0; i < n; ++i) factor[i] = to_acc(p[i * g.w]);
        }
        for (int64_t i = 0; i < n; i += L) {
          store_acc(row + i, finish(load_acc(row + i), load_acc(factor + i)));
        }
      } else if (epilogue_) {
        for (int64_t i = 0; i < n; i += L) {
          store_acc(row + i, finish(load_acc(row + i), Vec<A>{}));
        }
      }
      if (phases > 1) {
        interleave(merged, row, phases, n);
        row = merged;
      }
      if (s.w == 1 && s.h == n && t_.rows.phases == 1 &&
          (n + L - 1) / L * L <= (region.tile_rows - r) * n) {
        // Whole vectors: what runs into the next rows of this region is overwritten with them.
        for (int64_t i = 0; i < n; i += L) store(out + i, load_acc(row + i));
      } else if (s.w == 1) {
        narrow_row(out, row, n);
      } else {
        for (int64_t i = 0; i < n; ++i) from_acc(row[i], out + i * s.w);
      }
    }
  }

  // `lanes` planes of vectors of channels, rows `pitch` apart, to the output.
  void store_planes(const A* staged, int64_t pitch, int64_t n, int64_t channel, int lanes,
                    int64_t row, int64_t rows, int64_t col, int64_t cols) const {
    const Strides4 &s = t_.output_strides, &g = t_.grad_strides;
    T* out = static_cast<T*>(t_.output) + n * s.n + channel * s.c + row * s.h + col * s.w;
    const T* grad = static_cast<const T*>(t_.grad);
    if (grad) grad += n * g.n + channel * g.c + row * g.h + col * g.w;
    // Rows without gaps are one long row.
    if (s.w == 1 && s.h == cols && pitch == cols * L && (!grad || (g.w == 1 && g.h == cols))) {
      cols *= rows;
      rows = 1;
    }
    const int64_t plane = s.c, step = s.w;
    const bool finished = !grad && !epilogue_;
    for (int64_t r = 0; r < rows; ++r) {
      const A* stage = staged + r * pitch;
      T* p = out + r * s.h;
      int64_t i = 0;
      if (finished && step == 1 && lanes == L) {
        for (; i + L <= cols; i += L) {
          Vec<A> block[L];
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) block[l] = load_acc(stage + (i + l) * L);
          transpose(block);
          T* q = p + i;
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l, q += plane) store(q, block[l]);
        }
      }
      for (; i < cols; i += L) {
        const int64_t count = min64(L, cols - i);
        Vec<A> block[L];
        for (int l = 0; l < L; ++l) block[l] = load_acc(stage + (i + l) * L);
        transpose(block);
        if (!finished) finish_planes(block, lanes, grad, r * g.h + i * g.w, count);
        for (int l = 0; l < lanes; ++l) {
          store_part(p + l * plane + i * step, step, block[l], static_cast<int>(count));
        }
      }
    }
  }

 private:
  EFFKERN_INLINE Vec<A> finish(Vec<A> v, Vec<A> grad) const {
    if (t_.grad) return grad * activation_grad<A>(v, t_.activation);
    return epilogue_ ? activate<A>(v, t_.activation) : v;
  }

  __attribute__((noinline)) void finish_planes(Vec<A>* block, int lanes, const T* grad,
                                               int64_t offset, int64_t count) const {
    for (int l = 0; l < lanes; ++l) {
      Vec<A> factor{};
      if (grad) {
        factor = load_part(grad + l * t_.grad_strides.c + offset, t_.grad_strides.w,
                           static_cast<int>(count));
      }
      block[l] = finish(block[l], factor);
    }
  }

  // out[i * phases + b] = row of phase b [i]
  void interleave(A* out, const A* row, int64_t phases, int64_t n) const {
    constexpr int64_t kBuffer = kMaxRows * kMaxCols * L;
#if EFFKERN_VECTOR == 32
    if constexpr (sizeof(A) == 4) {
      if (phases == 2) {
        for (int64_t i = 0; i < n; i += 2 * L) {
          const Vec<A> x = load_acc(row + i / 2), y = load_acc(row + kBuffer + i / 2);
          store_acc(out + i, __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11));
          store_acc(out + i + L, __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15));
        }
        return;
      }
    }
#endif
    for (int64_t i = 0; i < n; ++i) out[i] = row[i % phases * kBuffer + i / phases];
  }

  const StencilTask& t_;
  A* rows_;
  // An activation other than those that the tiles apply themselves.
  bool epilogue_;
};

}  // namespace EFFKERN_ISA
}  // namespace effkern
