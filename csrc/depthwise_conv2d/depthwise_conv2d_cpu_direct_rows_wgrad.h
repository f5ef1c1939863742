// Weight gradient of contiguous images without packing: a lane is a pixel of a row, sums over the
// lanes come last. Blocks of rows of 16-bit images are widened first. 3x3 and 5x5, stride 1 and 2.
// Included after the direct weight gradient of channels_last images, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

struct DirectRowsWgradArgs {
  // What the first tap of the group meets at the first output pixel of the first row, and that
  // pixel of grad_output.
  const float* source;
  const float* grad;
  // From one row of the walk to the next, and between the rows that neighbouring kernel rows meet.
  int64_t source_step, grad_step, tap_row;
  int64_t rows;
  // Columns of the image and of grad_output.
  int64_t width, out_width, pad;
  // [tap][lane], what is added to.
  float* sums;
};

// Columns [col, col + kLanes) of grad_output in all rows; kMasked if they or what they meet reach
// over a border.
template <int K, int S, int N, bool kMasked>
EFFKERN_INLINE void direct_rows_wgrad_strip(const DirectRowsWgradArgs& args, int64_t col,
                                            Vec<float> (&acc)[N][K]) {
  constexpr int L = kLanes<float>;
  typedef Vector<float>::mask Mask;
  const int64_t first = col * S - args.pad;
  // Lanes beyond the last output pixel meet nothing: theirs may be an infinity of other taps.
  Mask grad_mask, masks[S == 1 ? K : K + 1];
  if constexpr (kMasked) {
    grad_mask = lanes_inside(col, args.out_width);
    for (int j = 0; j < (S == 1 ? K : K + 1); ++j) {
      const int64_t start = S == 1 ? first + j : first + j / 2 * 2 + j % 2 * L;
      const int64_t end = S == 1 ? args.out_width + j : 2 * args.out_width + j / 2 * 2;
      masks[j] = lanes_inside(start, min64(args.width, end - args.pad));
    }
  }
  const float* source = args.source + first;
  const float* grad = args.grad + col;
  for (int64_t y = 0; y < args.rows; ++y) {
    if constexpr (S == 1) {
      Vec<float> g[N];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        const float* p = grad - i * args.tap_row;
        g[i] = kMasked ? load_masked(p, grad_mask) : load(p);
      }
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) {
        const Vec<float> x = wgrad_operand<N * K + N>(kMasked ? load_masked(source + j, masks[j])
                                                              : load(source + j));
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) acc[i][j] += g[i] * x;
      }
    } else {
      const Vec<float> g = fold(kMasked ? load_masked(grad, grad_mask) : load(grad));
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        // Two columns at a time: they are the even and the odd pixels of the same two vectors.
#pragma GCC unroll 4
        for (int j = 0; j < K; j += 2) {
          const float* p = source + i * args.tap_row + j;
          const Vec<float> x = kMasked ? load_masked(p, masks[j]) : load(p);
          const Vec<float> y = kMasked ? load_masked(p + L, masks[j + 1]) : load(p + L);
          acc[i][j] += g * even_lanes(x, y);
          if (j + 1 < K) acc[i][j + 1] += g * odd_lanes(x, y);
        }
      }
    }
    source += args.source_step;
    grad += args.grad_step;
  }
}

template <int K, int S, int N>
void direct_rows_wgrad(const DirectRowsWgradArgs& arguments) {
  constexpr int L = kLanes<float>;
  const DirectRowsWgradArgs args = arguments;
  // Columns that one strip reads.
  constexpr int64_t kReach = S == 1 ? L + K - 1 : 2 * L + K - 1;
  Vec<float> acc[N][K] = {};
  for (int64_t col = 0; col < args.out_width; col += L) {
    const int64_t first = col * S - args.pad;
    if (first >= 0 && first + kReach <= args.width && col + L <= args.out_width) {
      direct_rows_wgrad_strip<K, S, N, false>(args, col, acc);
    } else {
      direct_rows_wgrad_strip<K, S, N, true>(args, col, acc);
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
  static constexpr bool kWide = sizeof(T) == sizeof(float);

 public:
  DirectRowsWgrad(const WeightGradTask& task, void* scratch)
      : t_(task), p_(task.problem), output_(task), sums_(static_cast<float*>(scratch)) {
    args_.width = p_.width;
    args_.out_width = p_.out_width();
    args_.pad = p_.pad_left;
    args_.sums = sums_;
    // Those of the widened rows.
    source_pitch_ = kWide ? t_.input_strides.h : p_.width;
    grad_pitch_ = kWide ? t_.grad_strides.h : args_.out_width;
    args_.source_step = S * source_pitch_;
    args_.grad_step = grad_pitch_;
    args_.tap_row = S == 1 ? grad_pitch_ : source_pitch_;
    widened_ = sums_ + (K * K + 1) * L;
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
    const float *source, *grad;
    if constexpr (kWide) {
      source = source_plane(n, channel);
      grad = grad_plane(n, channel);
    } else {
      // The rows that the walk goes over, and those of the other tensor that they meet.
      const int64_t met = S == 1 ? begin + p_.pad_top - K + 1 : begin * S - p_.pad_top;
      const int64_t met_end = S == 1 ? end + p_.pad_top : (end - 1) * S - p_.pad_top + K;
      const int64_t first = max64(0, met);
      const int64_t last = max64(first, min64(met_end, S == 1 ? p_.out_height() : p_.height));
      const int64_t x0 = S == 1 ? begin : first, x1 = S == 1 ? end : last;
      const int64_t y0 = S == 1 ? first : begin, y1 = S == 1 ? last : end;
      float* wide_source = widened_;
      float* wide_grad = wide_source + (x1 - x0) * source_pitch_ + L;
      widen(wide_source, source_plane(n, channel), t_.input_strides.h, x0, x1, p_.width);
      widen(wide_grad, grad_plane(n, channel), t_.grad_strides.h, y0, y1, args_.out_width);
      source = wide_source - x0 * source_pitch_;
      grad = wide_grad - y0 * grad_pitch_;
    }
    const int64_t most = max64(1, kChainLength / ceil_div(args_.out_width, L));
    for_each_wgrad_run<K, S>(p_, begin, end, most, [&](const WgradRun& run) {
      // With stride 1 a row of the image, else one of grad_output.
      args_.source =
          source + (S == 1 ? run.row : run.row * S - p_.pad_top + run.first) * source_pitch_;
      args_.grad = grad + (S == 1 ? run.row + p_.pad_top - run.first : run.row) * grad_pitch_;
      args_.rows = run.rows;
      args_.sums = sums_ + run.first * K * L;
      kTiles.run[run.count - 1](args_);
    });
  }

  // Rows [begin, end), without gaps.
  static void widen(float* out, const T* plane, int64_t step, int64_t begin, int64_t end,
                    int64_t width) {
    if (step == width) return widen_row(out, plane + begin * step, (end - begin) * width);
    for (int64_t y = begin; y < end; ++y, out += width) widen_row(out, plane + y * step, width);
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
    void (*run[direct_wgrad_group(K)])(const DirectRowsWgradArgs&) = {};

    template <int N>
    constexpr void fill() {
      run[N - 1] = &direct_rows_wgrad<K, S, N>;
      if constexpr (N > 1) fill<N - 1>();
    }
    constexpr Tiles() { fill<direct_wgrad_group(K)>(); }
  };
  static constexpr Tiles kTiles{};

  const WeightGradTask& t_;
  const DepthwiseConv2dProblem& p_;
  WeightGradOutput<T, false> output_;
  float *sums_, *widened_;
  int64_t source_pitch_, grad_pitch_;
  DirectRowsWgradArgs args_;
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
