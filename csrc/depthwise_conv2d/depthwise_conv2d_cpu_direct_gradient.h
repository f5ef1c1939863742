// Input gradient with stride 2 of channels_last images without packing: 3x3 and 5x5. Pixels of the
// four phases of the stride are one tile, so that each pixel of the gradient is loaded once for all
// of them and rows are written whole. Included after the direct forward, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

template <class T>
struct DirectGradientArgs {
  // The gradient of the output, `channels` of it from the pointer on, and the element at which the
  // tile's taps with index 0 read for its first pixel.
  const T* grad;
  int64_t origin, grad_row, grad_col;
  // Where that element lies, and the size of the gradient.
  int64_t row, col, rows, cols;
  // Per span of channels: the taps, each a span.
  const Acc<T>* weights;
  int64_t channels;
  // The tile's first pixel; those from first to last lie inside the image.
  T* out;
  int64_t out_row, out_col;
  int64_t first_row, last_row, first_col, last_col;
  // Whether the output is written past the caches.
  bool streams;
  RowsAhead ahead;
};

// Pixels of a row of one tile, which is 2 rows high.
template <class T>
constexpr int kGradientCols = 4 / kSpanVectors<T>;

// 2 x kGradientCols pixels of all channels, of which the first has phase 0 in both directions;
// kEdge if a part of them, or of what they read, lies outside.
template <class T, int K, bool kEdge>
void direct_gradient_tile(const DirectGradientArgs<T>& arguments) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>, kVectors = kSpanVectors<T>;
  constexpr int kHalf = (K - 1) / 2, kCols = kGradientCols<T>;
  // A copy, which the stores to the output cannot change.
  const DirectGradientArgs<T> args = arguments;
  const A* weights = args.weights;
  LineStores<T, 2 * kCols> lines;
  for (int64_t c = 0;; c += kSpan<T>, weights += K * K * kSpan<T>) {
    // The last span begins earlier where the channels do not fill it.
    if (c > args.channels - kSpan<T>) c = args.channels - kSpan<T>;
    args.ahead.fetch(c / kSpan<T>);
    Span<T> acc[2][kCols] = {};
#pragma GCC unroll 4
    for (int i = 0; i <= kHalf; ++i) {
      if (kEdge && (args.row < i || args.row - i >= args.rows)) continue;
      const T* grad = args.grad + (args.origin - i * args.grad_row + c);
#pragma GCC unroll 8
      for (int d = -kHalf; d < kCols / 2; ++d) {
        if (kEdge && (args.col + d < 0 || args.col + d >= args.cols)) continue;
        const Span<T> g = load_span(grad + d * args.grad_col);
#pragma GCC unroll 2
        for (int pair = 0; pair < kCols / 2; ++pair) {
          const int j = pair - d;
          if (j < 0 || j > kHalf) continue;
#pragma GCC unroll 2
          for (int a = 0; a < 2; ++a) {
#pragma GCC unroll 2
            for (int b = 0; b < 2; ++b) {
              const int y = a + 2 * i, x = b + 2 * j;
              if (y >= K || x >= K) continue;
#pragma GCC unroll 2
              for (int v = 0; v < kVectors; ++v) {
                const A* tap = weights + ((y * K + x) * kVectors + v) * L;
                acc[a][2 * pair + b].v[v] += load_acc(tap) * g.v[v];
              }
            }
          }
        }
      }
    }
    T* out = args.out + c;
    if (!kEdge && __builtin_expect(args.streams, 0)) {
      lines.put(
          reinterpret_cast<const Span<T>(&)[2 * kCols]>(acc),
          [&](int i) __attribute__((always_inline)) {
            return out + (i / kCols * args.out_row + i % kCols * args.out_col);
          },
          c + 2 * kSpan<T> <= args.channels);
    } else {
#pragma GCC unroll 2
      for (int a = 0; a < 2; ++a, out += args.out_row) {
        if (kEdge && (a < args.first_row || a >= args.last_row)) continue;
#pragma GCC unroll 4
        for (int x = 0; x < kCols; ++x) {
          if (kEdge && (x < args.first_col || x >= args.last_col)) continue;
          store_span(out + x * args.out_col, acc[a][x]);
        }
      }
    }
    if (c + kSpan<T> >= args.channels) break;
  }
}

template <class T, int K>
class DirectGradient {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;

 public:
  DirectGradient(const StencilTask& task, void* scratch)
      : t_(task), weights_(static_cast<A*>(scratch)) {
    args_.grad_row = t_.source_strides.h;
    args_.grad_col = t_.source_strides.w;
    args_.rows = t_.rows.source_size;
    args_.cols = t_.cols.source_size;
    args_.out_row = t_.output_strides.h;
    args_.out_col = t_.output_strides.w;
    args_.streams = LineStores<T, 1>::fit(t_);
    args_.ahead.rows = 1;
    args_.ahead.row_bytes = t_.source_strides.h * static_cast<int64_t>(sizeof(T));
    args_.ahead.span_bytes = kGradientCols<T> / 2 * kSpan<T> * static_cast<int64_t>(sizeof(T));
  }

  // A unit is a pair of rows; the first pair begins above the image where the padding is odd.
  void run(int64_t begin, int64_t end) {
    const int64_t above = t_.pad_top % 2, blocks = ceil_div(t_.rows.out_size + above, 2);
    for_each_channel_run(t_, blocks, begin, end,
                         [&](int64_t n, int64_t block, int64_t channel, int64_t count) {
                           pack(channel, channel + count);
                           args_.channels = count;
                           args_.weights = weights_ + channel * (K * K);
                           run_pair(n, channel, 2 * block - above);
                         });
    if (args_.streams) stream_fence();
  }

 private:
  void pack(int64_t begin, int64_t end) {
    packed_.extend(begin, end, kSpan<T>, [&](int64_t c) {
      const T* weight = static_cast<const T*>(t_.weight);
      weight += min64(c, t_.channels - kSpan<T>) * t_.weight_stride_o;
      for (int v = 0; v < kSpanVectors<T>; ++v) {
        pack_vector(weight + v * t_.weight_stride_o, weights_ + c * (K * K) + v * L);
      }
    });
  }

  // One vector of a span.
  void pack_vector(const T* weight, A* out) const {
    constexpr int kStep = kSpanVectors<T>;
    if (t_.weight_stride_w == 1 && t_.weight_stride_h == K && t_.weight_stride_o == K * K) {
      return pack_transposed(weight, L, K * K, false, out, kStep);
    }
    for (int64_t k = 0; k < K * K; ++k, out += kStep * L) {
      const T* tap = weight + k / K * t_.weight_stride_h + k % K * t_.weight_stride_w;
      for (int l = 0; l < L; ++l) out[l] = to_acc(tap[l * kStep * t_.weight_stride_o]);
    }
  }

  void run_pair(int64_t n, int64_t channel, int64_t row) {
    const Strides4 &g = t_.source_strides, &o = t_.output_strides;
    constexpr int64_t kHalf = (K - 1) / 2, kCols = kGradientCols<T>;
    args_.grad = static_cast<const T*>(t_.source) + n * g.n + channel;
    args_.row = (row + t_.pad_top) / 2;
    args_.first_row = max64(0, -row);
    args_.last_row = min64(2, t_.rows.out_size - row);
    const bool edge =
        args_.first_row > 0 || args_.last_row < 2 || args_.row < kHalf || args_.row >= args_.rows;
    T* out = static_cast<T*>(t_.output) + n * o.n + channel;
    for (int64_t col = -(t_.pad_left % 2); col < t_.cols.out_size; col += kCols) {
      args_.col = (col + t_.pad_left) / 2;
      args_.first_col = max64(0, -col);
      args_.last_col = min64(kCols, t_.cols.out_size - col);
      args_.origin = args_.row * g.h + args_.col * g.w;
      args_.out = out + (row * o.h + col * o.w);
      if (t_.fetches_ahead) {
        const T* below = args_.grad + (args_.row + 1) * g.h + args_.col * g.w;
        args_.ahead.begin = reinterpret_cast<const char*>(below);
      }
      if (edge || args_.first_col > 0 || args_.last_col < kCols || args_.col < kHalf ||
          args_.col + kCols / 2 > args_.cols) {
        direct_gradient_tile<T, K, true>(args_);
      } else {
        direct_gradient_tile<T, K, false>(args_);
      }
    }
  }

  const StencilTask& t_;
  A* weights_;
  PackedChannels packed_;
  DirectGradientArgs<T> args_;
};

template <class T>
void run_direct_channels(const StencilTask& task, int64_t begin, int64_t end, void* scratch) {
  if (task.gradient && task.stride == 2) {
    return task.taps_per_row == 3 ? DirectGradient<T, 3>(task, scratch).run(begin, end)
                                  : DirectGradient<T, 5>(task, scratch).run(begin, end);
  }
  const bool one = task.cols.step == 1;
  switch (task.taps_per_row) {
    case 3:
      return one ? DirectChannels<T, 3, 1>(task, scratch).run(begin, end)
                 : DirectChannels<T, 3, 2>(task, scratch).run(begin, end);
    case 5:
      return one ? DirectChannels<T, 5, 1>(task, scratch).run(begin, end)
                 : DirectChannels<T, 5, 2>(task, scratch).run(begin, end);
    case 7:
      return DirectChannels<T, 7, 1>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
