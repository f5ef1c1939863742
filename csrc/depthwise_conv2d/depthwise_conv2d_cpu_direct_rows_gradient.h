// Input gradient with stride 2 of contiguous images: 3x3 and 5x5. Rows of grad_output, a quarter of
// the result, are copied with zeros around them; a lane is one of their pixels and computes a pair
// of columns in a pair of rows, all taps of which it meets. Included after the direct forward of
// contiguous images, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Lanes taken from x and y in turn.
EFFKERN_INLINE void interleave(Vec<float> x, Vec<float> y, Vec<float> (&out)[2]) {
#if EFFKERN_VECTOR == 64
  out[0] = __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  out[1] =
      __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
  out[0] = __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
  out[1] = __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
#endif
}

// Lanes taken from x and y in turn to memory, as many as there is room for.
template <class T>
EFFKERN_INLINE void store_pairs(T* p, Vec<float> x, Vec<float> y, int64_t room) {
  constexpr int L = kLanes<float>;
  if constexpr (kSpanVectors<T> == 2) {
    // They are the even and the odd elements of a span.
    if (room >= 2 * L) return store_span(p, {{x, y}});
    T few[2 * L];
    store_span(few, {{x, y}});
    copy_few(p, few, room);
  } else {
    Vec<float> pixels[2];
    interleave(x, y, pixels);
    store_upto(p, pixels[0], room);
    if (room > L) store_upto(p + L, pixels[1], room - L);
  }
}

// P: whether the padding above and to the left is odd. Column x of the result meets tap j at column
// (x + pad - j) / 2 of grad_output, so that of a pair of columns from an even x on, the first meets
// the taps of P's parity and the second the others.
template <class T, int K, int P>
class DirectRowsGradient {
  static constexpr int L = kLanes<float>, kHalf = (K - 1) / 2;
  // Pairs of rows of a tile.
  static constexpr int kPairs = 2;

 public:
  DirectRowsGradient(const StencilTask& task, void* scratch)
      : t_(task), weights_(static_cast<float*>(scratch)), zeros_(weights_ + K * K * L) {
    const int64_t pad = t_.pad_left / 2, first = pad + P - kHalf;
    pitch_ = direct_rows_gradient_pitch(t_.cols.out_size, t_.cols.source_size, t_.pad_left, K, L);
    data_ = max64(0, -first);
    origin_ = max64(0, first);
    copies_ = zeros_ + pitch_;
    const int64_t rows = t_.plan.block_rows / 2 + kHalf;
    for (int64_t i = 0; i < (rows + 1) * pitch_; ++i) zeros_[i] = 0;
    const int64_t width = t_.cols.source_size;
    tail_ = lanes_inside<T>(width / L * L, width);
    const Strides4& g = t_.source_strides;
    end_ = static_cast<const T*>(t_.source) + (t_.batch - 1) * g.n + (t_.channels - 1) * g.c +
           (t_.rows.source_size - 1) * g.h + width;
  }

  // Units: planes x blocks of rows.
  void run(int64_t begin, int64_t end) {
    const int64_t blocks = ceil_div(t_.rows.out_size, t_.plan.block_rows);
    int64_t packed = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / blocks, channel = plane % t_.channels;
      if (packed != channel) pack(channel);
      packed = channel;
      run_block(plane / t_.channels, channel, unit % blocks * t_.plan.block_rows);
    }
  }

 private:
  void pack(int64_t channel) {
    const T* weight = static_cast<const T*>(t_.weight) + channel * t_.weight_stride_o;
    for (int64_t k = 0; k < K * K; ++k) {
      const T* tap = weight + k / K * t_.weight_stride_h + k % K * t_.weight_stride_w;
      store_acc(weights_ + k * L, splat(static_cast<float>(to_acc(*tap))));
    }
  }

  void run_block(int64_t n, int64_t channel, int64_t row) {
    const Strides4 &g = t_.source_strides, &o = t_.output_strides;
    const int64_t end = min64(row + t_.plan.block_rows, t_.rows.out_size);
    const T* grad = static_cast<const T*>(t_.source) + n * g.n + channel * g.c;
    T* out = static_cast<T*>(t_.output) + n * o.n + channel * o.c + row * o.h;
    // The first row of grad_output that the block meets, and those inside.
    const int64_t above = row / 2 + t_.pad_top / 2 + P - kHalf;
    const int64_t below = above + ceil_div(end - row, 2) + kHalf;
    const int64_t first = max64(above, 0), last = min64(below, t_.rows.source_size);
    for (int64_t y = first; y < last; ++y) {
      copy_row(copies_ + (y - above) * pitch_ + data_, grad + y * g.h);
    }
    const float* rows[kPairs + kHalf];
    for (int64_t y = above; row < end; row += 2 * kPairs, y += kPairs) {
      for (int64_t i = 0; i < kPairs + kHalf; ++i) {
        const bool inside = y + i >= first && y + i < last;
        rows[i] = (inside ? copies_ + (y + i - above) * pitch_ : zeros_) + origin_;
      }
      const int64_t left = end - row;
      left > 2 ? run_tile<kPairs>(rows, out, left) : run_tile<1>(rows, out, left);
      out += 2 * kPairs * o.h;
    }
  }

  // The lanes beyond the row become zeros.
  void copy_row(float* to, const T* row) const {
    const int64_t width = t_.cols.source_size, whole = width / L * L;
    for (int64_t x = 0; x < whole; x += L) store_acc(to + x, load(row + x));
    if (whole == width) return;
    // Vectors of 16 bits are masked after they are loaded: none that would reach beyond the tensor.
    const bool masked = sizeof(T) == sizeof(float) || end_ - (row + whole) >= L;
    store_acc(to + whole,
              masked ? load_masked(row + whole, tail_) : load_upto(row + whole, width - whole));
  }

  // R pairs of rows, of which the first `count` rows are stored.
  template <int R>
  __attribute__((noinline)) void run_tile(const float* const* rows, T* out, int64_t count) const {
    const int64_t width = t_.cols.out_size, out_row = t_.output_strides.h;
    const float* weights = weights_;
    const int64_t rows_left = min64(count, 2 * R);
    for (int64_t col = 0; col < width; col += 2 * L) {
      Vec<float> acc[R][2][2] = {};
#pragma GCC unroll 8
      for (int row = 0; row < R + kHalf; ++row) {
        const float* p = rows[row] + col / 2;
#pragma GCC unroll 4
        for (int q = 0; q <= kHalf; ++q) {
          const Vec<float> x = in_register(load_acc(p + q));
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int a = 0; a < 2; ++a)
#pragma GCC unroll 2
              for (int b = 0; b < 2; ++b) {
                const int i = a - P + 2 * (kHalf - (row - r)), j = b - P + 2 * (kHalf - q);
                if (i < 0 || i >= K || j < 0 || j >= K) continue;
                acc[r][a][b] += load_acc(weights + (i * K + j) * L) * x;
              }
        }
      }
      T* p = out + col;
#pragma GCC unroll 8
      for (int y = 0; y < 2 * R; ++y, p += out_row) {
        if (y >= count) break;
        const Vec<float> even = acc[y / 2][y % 2][0], odd = acc[y / 2][y % 2][1];
        // What is too much for a row may fall into the next ones, which are written after it.
        const int64_t room =
            width <= 2 * L && out_row == width ? (rows_left - y) * width : width - col;
        store_pairs(p, even, odd, room);
      }
    }
  }

  const StencilTask& t_;
  // [tap][lane], all lanes the same.
  float* weights_;
  // Rows of grad_output as float, `pitch_` apart, whose data begin at `data_` and of which the
  // first column of the result reads from `origin_` on; and one without data.
  float *zeros_, *copies_;
  int64_t pitch_, data_, origin_;
  // Of grad_output: the lanes of the last vector of a row, and where the tensor ends.
  LaneMask<T> tail_;
  const T* end_;
};

template <class T, int K>
void run_direct_rows_gradient(const StencilTask& task, int64_t begin, int64_t end, void* scratch) {
  task.pad_left % 2 ? DirectRowsGradient<T, K, 1>(task, scratch).run(begin, end)
                    : DirectRowsGradient<T, K, 0>(task, scratch).run(begin, end);
}

template <class T>
void run_direct_rows(const StencilTask& task, int64_t begin, int64_t end, void* scratch) {
  const bool one = task.cols.step == 1;
  if (task.gradient && task.stride == 2) {
    return task.taps_per_row == 3 ? run_direct_rows_gradient<T, 3>(task, begin, end, scratch)
                                  : run_direct_rows_gradient<T, 5>(task, begin, end, scratch);
  }
  switch (task.taps_per_row) {
    case 3:
      return one ? DirectRows<T, 3, 1>(task, scratch).run(begin, end)
                 : DirectRows<T, 3, 2>(task, scratch).run(begin, end);
    case 5:
      return one ? DirectRows<T, 5, 1>(task, scratch).run(begin, end)
                 : DirectRows<T, 5, 2>(task, scratch).run(begin, end);
    case 7:
      return DirectRows<T, 7, 1>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
