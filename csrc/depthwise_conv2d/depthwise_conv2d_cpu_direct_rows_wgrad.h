// Weight gradient of contiguous images without packing: a lane is a pixel of a row, sums over the
// lanes come last. 3x3 and 5x5, stride 1 and 2.
// Included after the direct weight gradient of channels_last images, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

template <class T>
struct DirectRowsWgradArgs {
  // What the first tap of the group meets at the first output pixel of the first row, and that
  // pixel of grad_output.
  const T* source;
  const T* grad;
  // From one row of the walk to the next, and between the rows that neighbouring kernel rows meet.
  int64_t source_step, grad_step, tap_row;
  int64_t rows;
  // Columns of the image and of grad_output.
  int64_t width, out_width, pad;
  // Those of rows_wgrad_masks for each strip, or null: there are too many strips to keep them.
  const LaneMask<T>* masks;
  // [tap][lane], what is added to.
  float* sums;
};

// Masks per strip.
constexpr int kRowsWgradMasks = 8;

// Lanes of the vector of grad_output from `col` on, then what they meet: per tap of a row, or, with
// stride 2, per vector of two taps. Lanes beyond the last output pixel meet nothing: theirs may be
// an infinity of other taps.
template <class T, int K, int S>
EFFKERN_INLINE void rows_wgrad_masks(const DirectRowsWgradArgs<T>& args, int64_t col,
                                     LaneMask<T>* masks) {
  constexpr int L = kLanes<float>;
  const int64_t first = col * S - args.pad;
  masks[0] = lanes_inside<T>(col, args.out_width);
  for (int j = 0; j < (S == 1 ? K : K + 1); ++j) {
    const int64_t start = S == 1 ? first + j : first + j / 2 * 2 + j % 2 * L;
    const int64_t end = S == 1 ? args.out_width + j : 2 * args.out_width + j / 2 * 2;
    masks[1 + j] = lanes_inside<T>(start, min64(args.width, end - args.pad));
  }
}

// Columns [col, col + kLanes) of grad_output in all rows with stride 1; kMasked if they or what
// they meet reach over a border.
template <class T, int K, int N, bool kMasked>
EFFKERN_INLINE void direct_rows_wgrad_strip(const DirectRowsWgradArgs<T>& args, int64_t col,
                                            const LaneMask<T>* masks, Vec<float> (&acc)[N][K]) {
  const T* source = args.source + (col - args.pad);
  const T* grad = args.grad + col;
  // The rows that a row of the image meets; the next one meets all of them but the last.
  Vec<float> g[N];
#pragma GCC unroll 4
  for (int i = 1; i < N; ++i) {
    const T* p = grad - i * args.tap_row;
    g[i] = kMasked ? load_masked(p, masks[0]) : load(p);
  }
  for (int64_t y = 0; y < args.rows; ++y) {
    g[0] = kMasked ? load_masked(grad, masks[0]) : load(grad);
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      const Vec<float> x = wgrad_operand<N * K + N>(kMasked ? load_masked(source + j, masks[1 + j])
                                                            : load(source + j));
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) acc[i][j] += g[i] * x;
    }
#pragma GCC unroll 4
    for (int i = N - 1; i > 0; --i) g[i] = g[i - 1];
    source += args.source_step;
    grad += args.grad_step;
  }
}

// Columns [col, col + kSpan) with stride 1 away from the borders: what the even columns meet with
// one tap, the odd columns meet with the tap before.
template <class T, int K, int N>
EFFKERN_INLINE void direct_rows_wgrad_span(const DirectRowsWgradArgs<T>& args, int64_t col,
                                           Vec<float> (&acc)[N][K]) {
  const T* source = args.source + (col - args.pad);
  const T* grad = args.grad + col;
  for (int64_t y = 0; y < args.rows; ++y) {
    Vec<float> x[K + 1];
#pragma GCC unroll 4
    for (int j = 0; j < K; j += 2) {
      const EvenOdd pixels = load_even_odd(source + j);
      x[j] = pixels.even, x[j + 1] = pixels.odd;
    }
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const EvenOdd g = load_even_odd(grad - i * args.tap_row);
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) acc[i][j] += g.even * x[j];
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) acc[i][j] += g.odd * x[j + 1];
    }
    source += args.source_step;
    grad += args.grad_step;
  }
}

// Columns [col, col + kLanes) with stride 2.
template <class T, int K, int N, bool kMasked>
EFFKERN_INLINE void strided_rows_wgrad_strip(const DirectRowsWgradArgs<T>& args, int64_t col,
                                             const LaneMask<T>* masks, Vec<float> (&acc)[N][K]) {
  const T* source = args.source + (col * 2 - args.pad);
  const T* grad = args.grad + col;
  for (int64_t y = 0; y < args.rows; ++y) {
    const Vec<float> g = fold_pixels<T>(kMasked ? load_masked(grad, masks[0]) : load(grad));
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      // Two columns at a time: they are the even and the odd pixels of the same two vectors.
#pragma GCC unroll 4
      for (int j = 0; j < K; j += 2) {
        const T* p = source + i * args.tap_row + j;
        const EvenOdd x = kMasked ? load_even_odd_masked(p, masks + (1 + j)) : load_even_odd(p);
        acc[i][j] += g * x.even;
        if (j + 1 < K) acc[i][j + 1] += g * x.odd;
      }
    }
    source += args.source_step;
    grad += args.grad_step;
  }
}

template <class T, int K, int S, int N, bool kMasked>
EFFKERN_INLINE void rows_wgrad_strip(const DirectRowsWgradArgs<T>& args, int64_t col,
                                     const LaneMask<T>* masks, Vec<float> (&acc)[N][K]) {
  if constexpr (S == 1) {
    direct_rows_wgrad_strip<T, K, N, kMasked>(args, col, masks, acc);
  } else {
    strided_rows_wgrad_strip<T, K, N, kMasked>(args, col, masks, acc);
  }
}

template <class T, int K, int S, int N>
void direct_rows_wgrad(const DirectRowsWgradArgs<T>& arguments) {
  constexpr int L = kLanes<float>, V = kStripVectors<T, S>;
  const DirectRowsWgradArgs<T> args = arguments;
  Vec<float> acc[N][K] = {};
  // Of the columns from `col` on, whether `vectors` of them stay away from the borders.
  const auto inside = [&](int64_t col, int vectors) {
    const int64_t first = col * S - args.pad, reach = S * vectors * L + K - 1;
    return first >= 0 && first + reach <= args.width && col + vectors * L <= args.out_width;
  };
  for (int64_t col = 0; col < args.out_width; col += L) {
    if constexpr (V > 1) {
      if (inside(col, V)) {
        direct_rows_wgrad_span<T, K, N>(args, col, acc);
        col += (V - 1) * L;
        continue;
      }
    }
    if (inside(col, 1)) {
      rows_wgrad_strip<T, K, S, N, false>(args, col, nullptr, acc);
    } else if (args.masks) {
      rows_wgrad_strip<T, K, S, N, true>(args, col, args.masks + col / L * kRowsWgradMasks, acc);
    } else {
      LaneMask<T> masks[kRowsWgradMasks];
      rows_wgrad_masks<T, K, S>(args, col, masks);
      rows_wgrad_strip<T, K, S, N, true>(args, col, masks, acc);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      float* sum = args.sums + (i * K + j) * L;
      store_acc(sum, load_acc(sum) + acc[i][j]);
    }
}

template <class T, int K, int S>
class DirectRowsWgrad {
  static constexpr int L = kLanes<float>;

 public:
  DirectRowsWgrad(const WeightGradTask& task, void* scratch)
      : t_(task), p_(task.problem), output_(task), sums_(static_cast<float*>(scratch)) {
    args_.width = p_.width;
    args_.out_width = p_.out_width();
    args_.pad = p_.pad_left;
    args_.sums = sums_;
    copies_ = reinterpret_cast<T*>(sums_ + (K * K + 1) * L);
    args_.masks = args_.out_width <= kMaskedStrips * L ? masks_ : nullptr;
    for (int64_t col = 0; args_.masks && col < args_.out_width; col += L) {
      rows_wgrad_masks<T, K, S>(args_, col, masks_ + col / L * kRowsWgradMasks);
    }
  }

  // Units: channels x splits.
  void run(int64_t begin, int64_t end) {
    const int64_t splits = t_.plan.splits, rows = S == 1 ? p_.height : p_.out_height();
    const int64_t blocks = ceil_div(rows, t_.plan.block_rows), items = blocks * p_.batch;
    const int64_t height = p_.out_height();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t channel = unit / splits, split = unit % splits;
      zero(sums_, (K * K + 1) * L);
      for (int64_t item = items * split / splits; item < items * (split + 1) / splits; ++item) {
        const int64_t n = item / blocks, block = item % blocks, row = block * t_.plan.block_rows;
        if (t_.grad_weight) add_taps(n, channel, row, min64(row + t_.plan.block_rows, rows));
        if (t_.grad_bias) {
          add_bias(n, channel, height * block / blocks, height * (block + 1) / blocks);
        }
      }
      output_.write(sums_, channel, 1, split);
    }
  }

 private:
  const T* source_plane(int64_t n, int64_t channel) const {
    const Strides4& s = t_.input_strides;
    return static_cast<const T*>(t_.input) + n * s.n + floor_div(channel, p_.multiplier()) * s.c;
  }
  const T* grad_plane(int64_t n, int64_t channel) const {
    const Strides4& s = t_.grad_strides;
    return static_cast<const T*>(t_.grad) + n * s.n + channel * s.c;
  }

  void add_taps(int64_t n, int64_t channel, int64_t begin, int64_t end) {
    const T* source = source_plane(n, channel);
    const T* grad = grad_plane(n, channel);
    int64_t source_pitch = t_.input_strides.h, grad_pitch = t_.grad_strides.h;
    if (reaches_beyond(source, grad)) {
      // The rows that the walk goes over, and those of the other tensor that they meet.
      const int64_t met = S == 1 ? begin + p_.pad_top - K + 1 : begin * S - p_.pad_top;
      const int64_t met_end = S == 1 ? end + p_.pad_top : (end - 1) * S - p_.pad_top + K;
      const int64_t first = max64(0, met);
      const int64_t last = max64(first, min64(met_end, S == 1 ? p_.out_height() : p_.height));
      const int64_t x0 = S == 1 ? begin : first, x1 = S == 1 ? end : last;
      const int64_t y0 = S == 1 ? first : begin, y1 = S == 1 ? last : end;
      T* out = copies_ + args_.pad;
      source = copy_rows(&out, source, source_pitch, x0, x1, p_.width, source_reach());
      grad = copy_rows(&out, grad, grad_pitch, y0, y1, args_.out_width, grad_reach());
      source_pitch = p_.width;
      grad_pitch = args_.out_width;
    }
    args_.source_step = S * source_pitch;
    args_.grad_step = grad_pitch;
    args_.tap_row = S == 1 ? grad_pitch : source_pitch;
    const int64_t most = max64(1, kChainLength / ceil_div(args_.out_width, L));
    for_each_wgrad_run<K, S>(p_, begin, end, most, [&](const WgradRun& run) {
      // With stride 1 a row of the image, else one of grad_output.
      args_.source =
          source + (S == 1 ? run.row : run.row * S - p_.pad_top + run.first) * source_pitch;
      args_.grad = grad + (S == 1 ? run.row + p_.pad_top - run.first : run.row) * grad_pitch;
      args_.rows = run.rows;
      args_.sums = sums_ + run.first * K * L;
      kTiles.run[run.count - 1](args_);
    });
  }

  // Elements that strips of a row of grad_output, and of the image, read.
  int64_t grad_reach() const { return ceil_div(args_.out_width, L) * L; }
  int64_t source_reach() const { return grad_reach() * S + L + K; }

  // Vectors of 16 bits are masked after they are loaded: rows so close to the first or the last
  // element of a tensor that they would reach beyond are copied.
  bool reaches_beyond(const T* source, const T* grad) const {
    if (sizeof(T) == sizeof(float)) return false;
    const int64_t last_source = (p_.height - 1) * t_.input_strides.h;
    const int64_t last_grad = (p_.out_height() - 1) * t_.grad_strides.h;
    const T* source_end =
        source_plane(p_.batch - 1, p_.out_channels - 1) + (last_source + p_.width);
    const T* grad_end =
        grad_plane(p_.batch - 1, p_.out_channels - 1) + (last_grad + args_.out_width);
    return source - source_plane(0, 0) < args_.pad ||
           source_end - (source + last_source) < source_reach() - args_.pad ||
           grad_end - (grad + last_grad) < grad_reach();
  }

  // Copies rows [begin, end), without gaps, to *out, which moves behind them and what vectors read
  // there; returns where row 0 would be.
  static const T* copy_rows(T** out, const T* plane, int64_t step, int64_t begin, int64_t end,
                            int64_t width, int64_t reach) {
    T* rows = *out;
    for (int64_t y = begin; y < end; ++y) {
      memcpy(rows + (y - begin) * width, plane + y * step, static_cast<size_t>(width) * sizeof(T));
    }
    *out = rows + (end - begin) * width + reach;
    return rows - begin * width;
  }

  void add_bias(int64_t n, int64_t channel, int64_t begin, int64_t end) {
    const int64_t step = t_.grad_strides.h;
    const T* grad = grad_plane(n, channel) + begin * step;
    Vec<float> total = load_acc(sums_ + K * K * L);
    for (int64_t y = begin; y < end; ++y, grad += step) {
      Vec<float> sum{};
      for (int64_t x = 0; x < args_.out_width; x += L) {
        sum += load_upto(grad + x, args_.out_width - x);
      }
      total += sum;
    }
    store_acc(sums_ + K * K * L, total);
  }

  struct Tiles {
    void (*run[direct_wgrad_group(K)])(const DirectRowsWgradArgs<T>&) = {};

    template <int N>
    constexpr void fill() {
      run[N - 1] = &direct_rows_wgrad<T, K, S, N>;
      if constexpr (N > 1) fill<N - 1>();
    }
    constexpr Tiles() { fill<direct_wgrad_group(K)>(); }
  };
  static constexpr Tiles kTiles{};

  const WeightGradTask& t_;
  const DepthwiseConv2dProblem& p_;
  WeightGradOutput<T, false> output_;
  float* sums_;
  T* copies_;
  LaneMask<T> masks_[kMaskedStrips * kRowsWgradMasks];
  DirectRowsWgradArgs<T> args_;
};

template <class T>
void run_direct_rows_wgrad(const WeightGradTask& task, int64_t begin, int64_t end, void* scratch) {
  const bool one = task.problem.stride_w == 1;
  switch (task.problem.kernel_w) {
    case 3:
      return one ? DirectRowsWgrad<T, 3, 1>(task, scratch).run(begin, end)
                 : DirectRowsWgrad<T, 3, 2>(task, scratch).run(begin, end);
    case 5:
      return one ? DirectRowsWgrad<T, 5, 1>(task, scratch).run(begin, end)
                 : DirectRowsWgrad<T, 5, 2>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
