// Weight gradient of 3x3 and 5x5 kernels, stride 1 and 2, without packing. A pass over the
// rows keeps the sums of a group of kernel rows in registers; each pixel it loads meets all taps of
// the group. With stride 1 it walks over the rows of the image, each of which meets one row of
// grad_output per kernel row, with stride 2 over those of grad_output.
// Included after the weight gradient's output header, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Kernel rows whose sums fit the registers.
constexpr int direct_wgrad_group(int kernel) { return kernel == 3 ? 3 : 2; }

template <class T>
struct DirectWgradArgs {
  // What the first tap of the group meets at the first output pixel of the first row, and that
  // pixel of grad_output.
  const T* source;
  const T* grad;
  // From one row of the walk to the next, and between the rows that neighbouring kernel rows meet.
  int64_t source_step, grad_step, tap_row;
  int64_t source_col, grad_col;
  // Rows of the walk, columns [col, end_col) of grad_output, and channels.
  int64_t rows, col, end_col, channels;
  // Columns of the image.
  int64_t width, pad;
  // Per vector of each span of channels: [tap][lane], what is added to.
  Acc<T>* sums;
  // Of the image and of grad_output.
  RowsAhead ahead[2];
};

// One pixel of grad_output and vector V of its span; where kBorder, taps outside the image are left
// out.
template <class T, int K, int S, int N, int V, bool kBorder>
EFFKERN_INLINE void direct_wgrad_pixel(Vec<Acc<T>> (&acc)[N][K], const T* source, const T* grad,
                                       int64_t col, const DirectWgradArgs<T>& args) {
  using A = Acc<T>;
  Vec<A> g[S == 1 ? N : 1];
#pragma GCC unroll 4
  for (int i = 0; i < (S == 1 ? N : 1); ++i) g[i] = load_span(grad - i * args.tap_row).v[V];
#pragma GCC unroll 8
  for (int j = 0; j < K; ++j) {
    if (kBorder && (col + j < 0 || col + j >= args.width)) continue;
    if constexpr (S == 1) {
      const Vec<A> x = wgrad_operand<N * K + N>(load_span(source + j * args.source_col).v[V]);
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) acc[i][j] += g[i] * x;
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        const T* p = source + (i * args.tap_row + j * args.source_col);
        acc[i][j] += g[0] * load_span(p).v[V];
      }
    }
  }
}

// The sums of one tile for vector V of the span whose first channel is `c`.
template <class T, int K, int S, int N, int V>
EFFKERN_INLINE void direct_wgrad_tile(const DirectWgradArgs<T>& args, int64_t c, int64_t first,
                                      int64_t last, Acc<T>* sums) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>;
  const int64_t step = S * args.source_col;
  Vec<A> acc[N][K] = {};
  for (int64_t y = 0; y < args.rows; ++y) {
    const T* source = args.source + (y * args.source_step + c);
    const T* grad = args.grad + (y * args.grad_step + c);
    int64_t x = args.col;
    for (; x < first; ++x, source += step, grad += args.grad_col) {
      direct_wgrad_pixel<T, K, S, N, V, true>(acc, source, grad, x * S - args.pad, args);
    }
    for (; x < last; ++x, source += step, grad += args.grad_col) {
      direct_wgrad_pixel<T, K, S, N, V, false>(acc, source, grad, 0, args);
    }
    for (; x < args.end_col; ++x, source += step, grad += args.grad_col) {
      direct_wgrad_pixel<T, K, S, N, V, true>(acc, source, grad, x * S - args.pad, args);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      A* sum = sums + (i * K + j) * L;
      store_acc(sum, load_acc(sum) + acc[i][j]);
    }
}

// Lanes are channels; the loop runs over them, which are adjacent in memory.
template <class T, int K, int S, int N>
void direct_channels_wgrad(const DirectWgradArgs<T>& arguments) {
  constexpr int kSums = (K * K + 1) * kLanes<Acc<T>>, kLast = kSpanVectors<T> - 1;
  const DirectWgradArgs<T> args = arguments;
  // Pixels all of whose taps lie inside the image.
  const int64_t inside = max64(ceil_div(args.pad, S), args.col);
  const int64_t first = min64(inside, args.end_col);
  const int64_t inside_end = floor_div(args.width - K + args.pad, S) + 1;
  const int64_t last = max64(first, min64(args.end_col, inside_end));
  Acc<T>* sums = args.sums;
  for (int64_t c = 0;; c += kSpan<T>, sums += kSums) {
    // The last span begins earlier where the channels do not fill it.
    if (c > args.channels - kSpan<T>) c = args.channels - kSpan<T>;
    for (const RowsAhead& rows : args.ahead) rows.fetch(c / kSpan<T>);
    // The sums of a whole span would not fit the registers.
    if constexpr (kLast > 0) {
      direct_wgrad_tile<T, K, S, N, 0>(args, c, first, last, sums);
      sums += kSums;
    }
    direct_wgrad_tile<T, K, S, N, kLast>(args, c, first, last, sums);
    if (c + kSpan<T> >= args.channels) break;
  }
}

// Rows [row, row + rows) of the walk, which meet `count` kernel rows from `first` on.
struct WgradRun {
  int64_t row, rows, first, count;
};

// Calls run(WgradRun) for rows [begin, end) of the walk: for each group of kernel rows, as many
// rows at a time as meet the same ones, but not more than `most`.
template <int K, int S, class Run>
EFFKERN_INLINE void for_each_wgrad_run(const DepthwiseConv2dProblem& p, int64_t begin, int64_t end,
                                       int64_t most, const Run& run) {
  constexpr int kGroup = direct_wgrad_group(K);
  const int64_t out_height = p.out_height();
  for (int group = 0; group < K; group += kGroup) {
    WgradRun next{begin, 0, 0, 0};
    for (int64_t y = begin; y < end; ++y) {
      // Kernel rows that meet a row inside.
      const int64_t low = S == 1 ? y + p.pad_top - out_height + 1 : p.pad_top - y * S;
      const int64_t high = S == 1 ? y + p.pad_top + 1 : p.height + p.pad_top - y * S;
      const int64_t first = max64(group, low);
      const int64_t count = max64(0, min64(min64(group + kGroup, K), high) - first);
      if (next.rows == most || first != next.first || count != next.count) {
        if (next.rows && next.count) run(next);
        next = {y, 0, first, count};
      }
      ++next.rows;
    }
    if (next.rows && next.count) run(next);
  }
}

template <class T, int K, int S>
class DirectChannelsWgrad {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;
  static constexpr int64_t kSums = (K * K + 1) * L, kVectors = kSpanVectors<T>;

 public:
  DirectChannelsWgrad(const WeightGradTask& task, void* scratch)
      : t_(task), p_(task.problem), output_(task), sums_(static_cast<A*>(scratch)) {
    const Strides4 &xs = t_.input_strides, &gs = t_.grad_strides;
    args_.source_step = S == 1 ? xs.h : S * xs.h;
    args_.grad_step = gs.h;
    args_.tap_row = S == 1 ? gs.h : xs.h;
    args_.source_col = xs.w;
    args_.grad_col = gs.w;
    args_.width = p_.width;
    out_width_ = p_.out_width();
    args_.pad = p_.pad_left;
    args_.ahead[0].row_bytes = xs.h * static_cast<int64_t>(sizeof(T));
    args_.ahead[1].row_bytes = gs.h * static_cast<int64_t>(sizeof(T));
  }

  // Units: splits x groups of channels; the groups of a split that one call covers are one run.
  void run(int64_t begin, int64_t end) {
    const int64_t groups = t_.plan.grid / t_.plan.splits;
    for (int64_t unit = begin; unit < end;) {
      const int64_t split = unit / groups, group = unit % groups;
      const int64_t count = min64(groups - group, end - unit);
      const int64_t first = group * t_.plan.block_channels;
      // Channels that do not fill a vector go with the last group.
      const int64_t last =
          group + count == groups ? p_.out_channels : first + count * t_.plan.block_channels;
      run_split(split, first, last);
      unit += count;
    }
  }

 private:
  void run_split(int64_t split, int64_t first, int64_t last) {
    const int64_t rows = S == 1 ? p_.height : p_.out_height(), height = p_.out_height();
    const int64_t blocks = ceil_div(rows, t_.plan.block_rows), items = blocks * p_.batch;
    const int64_t spans = ceil_div(last - first, kSpan<T>);
    zero(sums_, spans * kVectors * kSums);
    args_.channels = last - first;
    for (int64_t item = items * split / t_.plan.splits; item < items * (split + 1) / t_.plan.splits;
         ++item) {
      const int64_t n = item / blocks, block = item % blocks, row = block * t_.plan.block_rows;
      if (t_.grad_weight) add_taps(n, first, row, min64(row + t_.plan.block_rows, rows));
      for (int64_t i = 0; i < spans && t_.grad_bias; ++i) {
        // The last span begins earlier where the channels do not fill it.
        add_bias(n, min64(first + i * kSpan<T>, last - kSpan<T>), height * block / blocks,
                 height * (block + 1) / blocks, sums_ + i * kVectors * kSums);
      }
    }
    for (int64_t i = 0; i < spans; ++i) {
      const int64_t channel = min64(first + i * kSpan<T>, last - kSpan<T>);
      write(sums_ + i * kVectors * kSums, channel, split);
    }
  }

  void add_taps(int64_t n, int64_t channel, int64_t begin, int64_t end) {
    const Strides4 &xs = t_.input_strides, &gs = t_.grad_strides;
    const T* source = static_cast<const T*>(t_.input) + n * xs.n + channel;
    const T* grad = static_cast<const T*>(t_.grad) + n * gs.n + channel;
    const int64_t width = t_.plan.block_cols;
    for (int64_t col = 0; col < out_width_; col += width) {
      args_.col = col;
      args_.end_col = min64(col + width, out_width_);
      if (t_.fetches_ahead) {
        fetch_with_next(args_.ahead[0], source + end * S * xs.h + col * S * xs.w, (end - begin) * S,
                        (args_.end_col - col) * S);
        fetch_with_next(args_.ahead[1], grad + end * gs.h + col * gs.w, end - begin,
                        args_.end_col - col);
      }
      for_each_wgrad_run<K, S>(p_, begin, end, end - begin, [&](const WgradRun& run) {
        // With stride 1 a row of the image, else one of grad_output.
        args_.source = source + (S == 1 ? run.row : run.row * S - p_.pad_top + run.first) * xs.h +
                       (col * S - p_.pad_left) * xs.w;
        args_.grad =
            grad + (S == 1 ? run.row + p_.pad_top - run.first : run.row) * gs.h + col * gs.w;
        args_.rows = run.rows;
        args_.sums = sums_ + run.first * K * L;
        kTiles.run[run.count - 1](args_);
        // The other groups of kernel rows read the same tile.
        for (RowsAhead& rows : args_.ahead) rows.begin = nullptr;
      });
    }
  }

  static void fetch_with_next(RowsAhead& ahead, const T* below, int64_t rows, int64_t pixels) {
    ahead.begin = reinterpret_cast<const char*>(below);
    ahead.rows = rows;
    ahead.span_bytes = pixels * kSpan<T> * static_cast<int64_t>(sizeof(T));
  }

  void add_bias(int64_t n, int64_t channel, int64_t begin, int64_t end, A* sums) const {
    const Strides4& s = t_.grad_strides;
    const T* grad = static_cast<const T*>(t_.grad) + n * s.n + channel + begin * s.h;
    for (int64_t y = begin; y < end; ++y, grad += s.h) {
      // Two chains: shorter ones lose less.
      Span<T> chains[2] = {};
      for (int64_t x = 0; x < out_width_; x += 2) {
#pragma GCC unroll 2
        for (int64_t i = 0; i < 2; ++i) {
          if (x + i >= out_width_) continue;
          const Span<T> g = load_span(grad + (x + i) * s.w);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) chains[i].v[v] += g.v[v];
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        A* sum = sums + v * kSums + K * K * L;
        store_acc(sum, load_acc(sum) + (chains[0].v[v] + chains[1].v[v]));
      }
    }
  }

  // The sums of one span.
  void write(A* sums, int64_t channel, int64_t split) const {
    for (int64_t k = 0; k <= K * K && kVectors > 1; ++k) {
      Span<T> span;
      for (int v = 0; v < kVectors; ++v) span.v[v] = load_acc(sums + v * kSums + k * L);
      span = element_order<T>(span);
      for (int v = 0; v < kVectors; ++v) store_acc(sums + v * kSums + k * L, span.v[v]);
    }
    for (int v = 0; v < kVectors; ++v) output_.write(sums + v * kSums, channel + v * L, L, split);
  }

  struct Tiles {
    void (*run[direct_wgrad_group(K)])(const DirectWgradArgs<T>&) = {};

    template <int N>
    constexpr void fill() {
      run[N - 1] = &direct_channels_wgrad<T, K, S, N>;
      if constexpr (N > 1) fill<N - 1>();
    }
    constexpr Tiles() { fill<direct_wgrad_group(K)>(); }
  };
  static constexpr Tiles kTiles{};

  const WeightGradTask& t_;
  const DepthwiseConv2dProblem& p_;
  WeightGradOutput<T, true> output_;
  A* sums_;
  DirectWgradArgs<T> args_;
  int64_t out_width_;
};

template <class T>
void run_direct_channels_wgrad(const WeightGradTask& task, int64_t begin, int64_t end,
                               void* scratch) {
  const bool one = task.problem.stride_w == 1;
  switch (task.problem.kernel_w) {
    case 3:
      return one ? DirectChannelsWgrad<T, 3, 1>(task, scratch).run(begin, end)
                 : DirectChannelsWgrad<T, 3, 2>(task, scratch).run(begin, end);
    case 5:
      return one ? DirectChannelsWgrad<T, 5, 1>(task, scratch).run(begin, end)
                 : DirectChannelsWgrad<T, 5, 2>(task, scratch).run(begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
