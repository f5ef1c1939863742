// Forward and input gradient: pack a block of the source, run the register tiles over it, finish.
// Included after the tile, pack and weights headers, once per instruction set.
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

template <class T, bool kChannels>
class Stencil {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;
  // Elements of the packed source per pixel, and channels per vector.
  static constexpr int E = kChannels ? L : 1;

 public:
  Stencil(const StencilTask& task, void* scratch) : t_(task) {
    taps_ = t_.pair_begin[t_.rows.phases * t_.cols.phases];
    const int64_t subs = ceil_div(t_.plan.block_channels, E);
    weights_ = static_cast<A*>(scratch);
    // Weights are packed in whole vectors of taps.
    bias_ = weights_ + subs * (taps_ + L) * E;
    rows_ = bias_ + subs * L;
    packed_ = rows_ + row_buffers(t_.cols.phases) * kTileRowsBound * kTileColsBound * L;
    const bool clamps = t_.activation == Activation::kNone || t_.activation == Activation::kReLU ||
                        t_.activation == Activation::kReLU6;
    lo_ = t_.activation == Activation::kNone ? -A(__builtin_inf()) : A(0);
    hi_ = t_.activation == Activation::kReLU6 ? A(6) : A(__builtin_inf());
    if (!clamps || t_.grad) lo_ = -A(__builtin_inf()), hi_ = A(__builtin_inf());
    direct_ = clamps && !t_.grad && sizeof(T) == sizeof(A);
    epilogue_ = !clamps && !t_.grad;
  }

  // Units: channel groups x images x row blocks.
  void run(int64_t begin, int64_t end) {
    const int64_t blocks = ceil_div(max_count(t_.rows), t_.plan.block_rows);
    const int64_t groups = ceil_div(t_.channels, t_.plan.block_channels);
    const bool innermost = t_.plan.channels_innermost;
    int64_t block = innermost ? begin / groups % blocks : begin % blocks;
    int64_t n = innermost ? begin / groups / blocks : begin / blocks % t_.batch;
    int64_t group = innermost ? begin % groups : begin / blocks / t_.batch;
    int64_t packed_channel = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = group * t_.plan.block_channels;
      const int64_t count = min64(t_.plan.block_channels, t_.channels - first);
      if (first != packed_channel) {
        for (int64_t sub = 0; sub * E < count; ++sub) {
          const int64_t channel = first + sub * E;
          pack_weights<T, kChannels>(t_, channel, lanes_of(channel), taps_,
                                     weights_ + sub * (taps_ + L) * E, bias_ + sub * L);
        }
        packed_channel = first;
      }
      const int64_t cols = max_count(t_.cols);
      for (int64_t col = 0; col < cols; col += t_.plan.block_cols) {
        run_block(n, first, count, block * t_.plan.block_rows, col);
      }
      if (innermost) {
        if (++group == groups) group = 0, ++block;
        if (block == blocks) block = 0, ++n;
      } else {
        if (++block == blocks) block = 0, ++n;
        if (n == t_.batch) n = 0, ++group;
      }
    }
  }

 private:
  static int64_t max_count(const StencilAxis& axis) { return axis.count(0); }
  int64_t row_span() const { return t_.rows.max_distance - t_.rows.min_distance; }
  int64_t row_pitch() const { return t_.cols.step * t_.plan.pitch * E; }
  int lanes_of(int64_t channel) const {
    return kChannels ? static_cast<int>(min64(L, t_.channels - channel)) : 1;
  }

  void pack_source(int64_t n, int64_t channel, int64_t count, const PackBlock& block) {
    const Strides4& s = t_.source_strides;
    const T* image = static_cast<const T*>(t_.source) + n * s.n;
    const int64_t divide = t_.divide, planes = t_.planes;
    for (int64_t m = 0; m < planes; ++m) {
      A* dst = packed_ + m * t_.plane;
      if constexpr (kChannels) {
        pack_channel_group<T>(
            dst, planes * t_.plane, image, s.c, channel, count, divide == 1 && planes == 1,
            [=](int64_t c) { return floor_div(c, divide) * planes + m; }, block);
      } else {
        pack_rows<T>(dst, image + (floor_div(channel, divide) * planes + m) * s.c, block);
      }
    }
  }

  void run_block(int64_t n, int64_t channel, int64_t count, int64_t row0, int64_t col0) {
    const int64_t rows = min64(t_.plan.block_rows, max_count(t_.rows) - row0);
    const int64_t cols = min64(t_.plan.block_cols, max_count(t_.cols) - col0);
    const int64_t first_col =
        col0 * t_.cols.step + floor_div(t_.cols.min_distance, t_.cols.step) * t_.cols.step;
    PackBlock block{row0 * t_.rows.step + t_.rows.min_distance,
                    (rows - 1) * t_.rows.step + 1 + row_span(),
                    first_col,
                    t_.cols.step,
                    t_.plan.pitch,
                    t_.rows.source_size,
                    t_.cols.source_size,
                    t_.source_strides.h,
                    t_.source_strides.w,
                    false};
    // The same number of channels, so that no vector is new.
    block.clean = count == packed_count_ && block.same_borders(packed_block_);
    packed_count_ = count;
    packed_block_ = block;
    pack_source(n, channel, count, block);
    const int64_t vectors = kChannels ? cols : ceil_div(cols, L);
    const int64_t tiles = vectors <= kMaxCols ? 1 : ceil_div(vectors, kMaxCols);
    const int widest = static_cast<int>(ceil_div(vectors, tiles));
    // So many tiles are one vector narrower than the others.
    const int64_t narrower = tiles * widest - vectors;
    const int64_t step = max_tile_rows(widest);
    const Strides4& s = t_.output_strides;
    // A tile may write whole vectors over the end of a row where the next row is written later.
    const bool dense_rows =
        s.w == 1 && s.h == cols && cols == t_.cols.out_size && (tiles == 1 || step == 1);
    const bool whole =
        kChannels ? count % L == 0 && s.c == 1 : dense_rows || (cols % L == 0 && s.w == 1);
    if (direct_ && whole && t_.rows.phases == 1 && t_.cols.phases == 1) {
      A* out = static_cast<A*>(t_.output) + n * s.n + channel * s.c + row0 * s.h + col0 * s.w;
      return run_direct(out, count, row0, rows, cols, step, tiles, widest, narrower);
    }
    for (int64_t row = 0; row < rows; row += step) {
      int64_t v1 = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t v0 = v1;
        v1 += widest - (tile < narrower ? 1 : 0);
        const A* source = packed_ + row * t_.rows.step * row_pitch() + v0 * L;
        // Vectors of channels that share cache lines are finished one right after the other.
        for (int64_t sub = 0; sub * E < count; ++sub, source += t_.planes * t_.plane) {
          Region<A> region{n,
                           channel + sub * E,
                           row0 + row,
                           min64(step, rows - row),
                           col0 + v0 * (kChannels ? 1 : L),
                           0,
                           static_cast<int>(v1 - v0),
                           weights_ + sub * (taps_ + L) * E,
                           bias_ + sub * L};
          for (int64_t a = 0; a < t_.rows.phases; ++a) {
            region.tile_rows = static_cast<int>(min64(region.rows, t_.rows.count(a) - region.row));
            if (region.tile_rows > 0) run_phases(region, a, source);
          }
        }
      }
    }
  }

  // A block whose tiles write the output themselves: nothing is done per tile but its addresses.
  void run_direct(A* out, int64_t count, int64_t row0, int64_t rows, int64_t cols, int64_t step,
                  int64_t tiles, int64_t widest, int64_t narrower) {
    TileArgs<A> args;
    args.source_row = t_.rows.step * row_pitch();
    args.lo = lo_;
    args.hi = hi_;
    args.out_row = t_.output_strides.h;
    args.out_col = kChannels ? t_.output_strides.w : L;
    const int64_t source_sub = t_.planes * t_.plane, weight_sub = (taps_ + L) * E;
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t tile_rows = min64(step, rows - row);
      int64_t first, last;
      tap_rows(0, row0 + row, tile_rows, &first, &last);
      const int64_t per_row = t_.cols.begin[1] * t_.planes, entry = first * per_row;
      args.offsets = t_.tap_offset + entry;
      args.taps = (last - first) * per_row;
      const A* source = packed_ + row * args.source_row;
      A* pixel = out + row * t_.output_strides.h;
      // What the last vector of a row writes too much must fall into rows that are still to come.
      const int64_t excess = kChannels ? 0 : (L - cols % L) % L;
      const bool buffered = excess > (rows - row - tile_rows) * cols;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t width = widest - (tile < narrower ? 1 : 0);
        if (buffered && tile == tiles - 1) {
          args.source = source;
          args.weights = weights_ + entry;
          args.bias = bias_;
          run_buffered(args, tile_rows, width, pixel, width * L - excess);
          break;
        }
        const auto run = kStencilTiles<A, !kChannels>.run[width - 1][tile_rows - 1];
        args.source = source;
        args.weights = weights_ + entry * E;
        args.bias = bias_;
        args.out = pixel;
        // Vectors of channels that share cache lines are finished one right after the other.
        for (int64_t channels = count; channels > 0; channels -= E) {
          run(args);
          args.source += source_sub;
          args.weights += weight_sub;
          args.bias += L;
          args.out += E;
        }
        source += width * L;
        pixel += width * args.out_col;
      }
    }
  }

  // A tile of rows whose last vectors would run over the end of the block.
  void run_buffered(TileArgs<A> args, int64_t rows, int64_t width, A* out, int64_t count) {
    args.out = rows_;
    args.out_row = kMaxCols * L;
    args.out_col = L;
    kStencilTiles<A, !kChannels>.run[width - 1][rows - 1](args);
    for (int64_t r = 0; r < rows; ++r) {
      narrow_row(out + r * t_.output_strides.h, rows_ + r * kMaxCols * L, count);
    }
  }

  // Kernel rows [first, last) of a phase, without those that meet only padding for all of `count`
  // output rows.
  void tap_rows(int64_t phase, int64_t row, int64_t count, int64_t* first, int64_t* last) const {
    const StencilAxis& rows = t_.rows;
    int64_t i = rows.begin[phase], j = rows.begin[phase + 1];
    const int64_t top = row * rows.step, bottom = (row + count - 1) * rows.step;
    while (i < j && bottom + rows.distance[i] < 0) ++i;
    while (i < j && top + rows.distance[j - 1] >= rows.source_size) --j;
    *first = i;
    *last = j;
  }

  // One row phase of a region: all its column phases.
  void run_phases(const Region<A>& region, int64_t a, const A* source) {
    const Strides4& s = t_.output_strides;
    T* out = static_cast<T*>(t_.output) + region.n * s.n + region.channel * s.c +
             (a + region.row * t_.rows.phases) * s.h;
    for (int64_t b = 0; b < t_.cols.phases; ++b) {
      const int64_t count = t_.cols.count(b) - region.col;
      if (count <= 0) continue;
      // In channels mode a shorter phase takes a narrower tile; rows drop what is too much.
      const int cols =
          kChannels ? static_cast<int>(min64(region.tile_cols, count)) : region.tile_cols;
      T* pixel = out + (b + region.col * t_.cols.phases) * s.w;
      const bool whole = kChannels ? lanes_of(region.channel) == L && s.c == 1
                                   : count >= int64_t{cols} * L && s.w == 1 && t_.cols.phases == 1;
      TileArgs<A> args = tile_args(region, a, b, source);
      if (direct_ && whole) {
        args.out = reinterpret_cast<A*>(pixel);
        args.out_row = t_.rows.phases * s.h;
        args.out_col = kChannels ? t_.cols.phases * s.w : L;
      } else {
        args.out = rows_ + (kChannels ? 0 : b) * kMaxRows * kMaxCols * L;
        args.out_row = kMaxCols * L;
        args.out_col = L;
      }
      kStencilTiles<A, !kChannels>.run[cols - 1][region.tile_rows - 1](args);
      if (direct_ && whole) continue;
      if constexpr (kChannels) store_channels(region, a, b, cols, pixel);
    }
    if (kChannels) return;
    const int64_t left = t_.cols.out_size - region.col * t_.cols.phases;
    const int64_t n = min64(int64_t{region.tile_cols} * L * t_.cols.phases, left);
    const bool stored =
        direct_ && s.w == 1 && t_.cols.phases == 1 && left >= int64_t{region.tile_cols} * L;
    if (!stored) store_rows(region, a, n, out + region.col * t_.cols.phases * s.w);
  }

  TileArgs<A> tile_args(const Region<A>& region, int64_t a, int64_t b, const A* source) const {
    const StencilAxis &rows = t_.rows, &cols = t_.cols;
    int64_t first, last;
    tap_rows(a, region.row, region.tile_rows, &first, &last);
    const int64_t per_row = (cols.begin[b + 1] - cols.begin[b]) * t_.planes;
    const int64_t entry = t_.pair_begin[a * cols.phases + b] + (first - rows.begin[a]) * per_row;
    TileArgs<A> args;
    args.source = source;
    args.source_row = rows.step * row_pitch();
    args.offsets = t_.tap_offset + entry;
    args.weights = region.weights + entry * E;
    args.taps = (last - first) * per_row;
    args.bias = region.bias;
    args.lo = lo_;
    args.hi = hi_;
    return args;
  }

  EFFKERN_INLINE Vec<A> finish(Vec<A> v, Vec<A> grad) const {
    if (t_.grad) return grad * activation_grad<A>(v, t_.activation);
    return epilogue_ ? activate<A>(v, t_.activation) : v;
  }

  void store_channels(const Region<A>& region, int64_t a, int64_t b, int cols, T* pixel) {
    const Strides4 &s = t_.output_strides, &g = t_.grad_strides;
    const int lanes = lanes_of(region.channel);
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
  void store_rows(const Region<A>& region, int64_t a, int64_t n, T* out) {
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

  // out[i * phases + b] = row of phase b [i]
  void interleave(A* out, const A* row, int64_t phases, int64_t n) {
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
  int64_t taps_;
  int64_t packed_count_ = 0;
  PackBlock packed_block_{};
  A *weights_, *bias_, *rows_, *packed_;
  A lo_, hi_;
  bool direct_, epilogue_;
};

template <class T>
void run_stencil(const StencilTask& task, int64_t begin, int64_t end, void* scratch) {
  if (task.plan.kernel == Kernel::kCpuChannels) {
    Stencil<T, true>(task, scratch).run(begin, end);
  } else {
    Stencil<T, false>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
