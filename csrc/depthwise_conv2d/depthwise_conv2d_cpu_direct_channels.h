// Forward and input gradient of channels_last images without packing: a tile of neighbouring pixels
// keeps its sums in registers while the loop runs over the channels, which are adjacent in memory.
// 3x3 and 5x5 with stride 1 and 2, 7x7 with stride 1. Included after the weights header, once per
// instruction set.
namespace effkern {
namespace EFFKERN_ISA {

template <class A>
__attribute__((noinline)) void activate_all(Vec<A>* values, int count, Activation activation) {
  with_activation<A>(activation, [&](auto activate) __attribute__((always_inline)) {
    for (int i = 0; i < count; ++i) values[i] = activate(values[i]);
  });
}

// What the direct kernels do to a tile before they store it.
template <class A>
struct DirectEpilogue {
  // relu and relu6, with their upper bound.
  bool clamps;
  A hi;
  // The others; kNone where clamping does it all.
  Activation activation;

  static DirectEpilogue of(Activation activation) {
    const bool clamps = activation == Activation::kReLU || activation == Activation::kReLU6;
    return {clamps, activation == Activation::kReLU6 ? A(6) : A(__builtin_inf()),
            clamps ? Activation::kNone : activation};
  }

  template <int N>
  EFFKERN_INLINE void apply(Vec<A> (&tile)[N]) const {
    if (__builtin_expect(activation != Activation::kNone, 0)) {
      // A copy, so that the tile itself stays in registers.
      Vec<A> values[N];
      for (int i = 0; i < N; ++i) values[i] = tile[i];
      activate_all<A>(values, N, activation);
      for (int i = 0; i < N; ++i) tile[i] = values[i];
    }
    if (clamps) {
      const Vec<A> low = splat(A(0)), high = splat(hi);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) tile[i] = clamp<A>(tile[i], low, high);
    }
  }
};

// The channels whose weights a thread has packed: a range that grows.
class PackedChannels {
 public:
  // Calls pack(channel) for every `step`-th channel of [begin, end) that is not packed yet.
  template <class Pack>
  void extend(int64_t begin, int64_t end, int64_t step, const Pack& pack) {
    if (begin >= begin_ && end <= end_) return;
    for (int64_t c = begin; c < end; c += step) {
      if (c < begin_ || c >= end_) pack(c);
    }
    begin_ = end_ > 0 ? min64(begin_, begin) : begin;
    end_ = max64(end_, end);
  }

 private:
  int64_t begin_ = 0, end_ = 0;
};

template <class T>
struct DirectArgs {
  // The image, `channels` of it from the pointer on, and the element that tap (0, 0) of the tile's
  // first pixel reads, which may lie outside.
  const T* source;
  int64_t origin, source_row, source_col;
  // The part of the tile's footprint that lies inside the image.
  int64_t first_row, last_row, first_col, last_col;
  // Per span of channels: bias, then taps, each a span.
  const Acc<T>* weights;
  int64_t channels;
  DirectEpilogue<Acc<T>> epilogue;
  T* out;
  int64_t out_row, out_col;
  // Whether the output is written past the caches.
  bool streams;
  RowsAhead ahead;
};

// Which part of a tile's footprint lies inside the image.
enum class Footprint {
  kInside,
  // The first or the last rows may lie outside, and of the columns ...
  kAllCols,       // none,
  kWithoutLeft,   // the first,
  kWithoutRight,  // the last,
  kWithoutBoth,   // the first and the last,
  kSomeCols,      // any number.
};
inline constexpr int kFootprints = 6;

// Rows of pixels of one tile, each of kDirectCols spans.
template <class T>
constexpr int kDirectTileRows = 2 / kSpanVectors<T>;

// Addresses of up to 11 neighbouring pixels as the processor adds them up: a pointer, and one of
// five registers times 1, 2, 4 or 8. Left alone, the compiler computes the address of each pixel of
// a tile ahead of the loop over the channels, and runs out of registers.
struct PixelSteps {
  // The bytes from a pixel to its 1st, 3rd, ... neighbour.
  int64_t odd[5];

  static PixelSteps of(int64_t bytes) {
    return {{bytes, 3 * bytes, 5 * bytes, 7 * bytes, 9 * bytes}};
  }
  // In the loop: from here on, they are numbers that it computed itself.
  EFFKERN_INLINE void renew() {
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) odd[i] = opaque(odd[i]);
  }
  template <class T>
  EFFKERN_INLINE const T* pixel(const T* row, int q) const {
    const int shift = q == 0 ? 0 : __builtin_ctz(q);
    const int64_t bytes = q == 0 ? 0 : odd[(q >> shift) / 2] << shift;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(row) + bytes);
  }
};

// The part of a K x K convolution of R x kDirectCols pixels with stride S that comes from one row
// of the image; `weight[r]` is the row of the kernel that output row r meets there.
template <class T, int K, int S, int R, Footprint F>
EFFKERN_INLINE void direct_row(Span<T> (&acc)[R][kDirectCols], const T* source,
                               const PixelSteps& steps, const Acc<T>* const (&weight)[R],
                               const DirectArgs<T>& args) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>, kVectors = kSpanVectors<T>;
  constexpr int kCols = (kDirectCols - 1) * S + K;
  constexpr bool kSome = F == Footprint::kSomeCols;
  constexpr int kFirst = F == Footprint::kWithoutLeft || F == Footprint::kWithoutBoth;
  constexpr int kLast = kCols - (F == Footprint::kWithoutRight || F == Footprint::kWithoutBoth);
  if constexpr (kSome || sizeof(T) == 2) {
    // Each pixel is tested or converted once; the registers hold the weights of a row of 3x3.
    constexpr bool kKeep = sizeof(T) == 2 && K == 3 && kVectors == 1;
    Span<T> w[R][K];
#pragma GCC unroll 2
    for (int r = 0; r < R && kKeep; ++r)
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          w[r][k].v[v] = in_register(load_acc(weight[r] + (k * kVectors + v) * L));
        }
#pragma GCC unroll 16
    for (int q = kFirst; q < kLast; ++q) {
      if (kSome && (q < args.first_col || q >= args.last_col)) continue;
      const Span<T> x = load_span(steps.pixel(source, q));
#pragma GCC unroll 8
      for (int p = 0; p < kDirectCols; ++p) {
        const int k = q - p * S;
        if (k < 0 || k >= K) continue;
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
            const A* tap = weight[r] + (k * kVectors + v) * L;
            acc[r][p].v[v] += (kKeep ? w[r][k].v[v] : load_acc(tap)) * x.v[v];
          }
      }
    }
  } else {
    // Each weight and each pixel is loaded once: kDirectCols pixels are held, S apart, and with the
    // next tap that meets pixels of the same phase of the stride one leaves and one comes.
#pragma GCC unroll 2
    for (int phase = 0; phase < S; ++phase) {
      // What one multiply-add alone uses is its operand in memory.
      const bool kShared = R > 1 || phase + S < K;
      Vec<A> x[kDirectCols];
#pragma GCC unroll 8
      for (int k = phase; k < K; k += S) {
        Vec<A> w[R];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) w[r] = in_register(load_acc(weight[r] + k * L));
#pragma GCC unroll 8
        for (int p = 0; p < kDirectCols; ++p) {
          const int q = p * S + k;
          if (q < kFirst || q >= kLast) continue;
          if (k > phase && p < kDirectCols - 1) {
            x[p] = x[p + 1];
          } else {
            x[p] = load(steps.pixel(source, q));
            if (kShared) x[p] = in_register(x[p]);
          }
#pragma GCC unroll 2
          for (int r = 0; r < R; ++r) acc[r][p].v[0] += w[r] * x[p];
        }
      }
    }
  }
}

// Row kRow of the tile's footprint, which `source` points to, and those below it.
template <class T, int K, int S, int R, Footprint F, int kRow = 0>
EFFKERN_INLINE void direct_rows(Span<T> (&acc)[R][kDirectCols], const T* source,
                                const PixelSteps& steps, const Acc<T>* taps,
                                const DirectArgs<T>& args) {
  using A = Acc<T>;
  // The rows of pixels that meet it.
  constexpr int kFirst = kRow < K ? 0 : (kRow - K) / S + 1;
  constexpr int kCount = (kRow / S < R ? kRow / S + 1 : R) - kFirst;
  if (F == Footprint::kInside || (kRow >= args.first_row && kRow < args.last_row)) {
    const A* weights[kCount];
    for (int r = 0; r < kCount; ++r) weights[r] = taps + (kRow - (kFirst + r) * S) * K * kSpan<T>;
    direct_row<T, K, S, kCount, F>(reinterpret_cast<Span<T>(&)[kCount][kDirectCols]>(acc[kFirst]),
                                   source, steps, weights, args);
  }
  if constexpr (kRow + 1 < (R - 1) * S + K) {
    direct_rows<T, K, S, R, F, kRow + 1>(acc, opaque(source + args.source_row), steps, taps, args);
  }
}

// R x kDirectCols pixels of all channels.
template <class T, int K, int S, int R, Footprint F>
void direct_tile(const DirectArgs<T>& arguments) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>, kVectors = kSpanVectors<T>;
  static_assert(R <= kDirectTileRows<T> && S < K);
  // A copy, which the stores to the output cannot change.
  const DirectArgs<T> args = arguments;
  const A* weights = args.weights;
  LineStores<T, R * kDirectCols> lines;
  PixelSteps steps = PixelSteps::of(args.source_col * static_cast<int64_t>(sizeof(T)));
  for (int64_t c = 0;; c += kSpan<T>, weights += (K * K + 1) * kSpan<T>) {
    // The last span begins earlier where the channels do not fill it.
    if (c > args.channels - kSpan<T>) c = args.channels - kSpan<T>;
    args.ahead.fetch(c / kSpan<T>);
    const T* source = opaque(args.source + (args.origin + c));
    steps.renew();
    Span<T> acc[R][kDirectCols];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < kDirectCols; ++p)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) acc[r][p].v[v] = load_acc(weights + v * L);
    direct_rows<T, K, S, R, F>(acc, source, steps, weights + kSpan<T>, args);
    args.epilogue.apply(reinterpret_cast<Vec<A>(&)[R * kDirectCols * kVectors]>(acc));
    T* out = args.out + c;
    if (__builtin_expect(args.streams, 0)) {
      lines.put(
          reinterpret_cast<const Span<T>(&)[R * kDirectCols]>(acc),
          [&](int i) __attribute__((always_inline)) {
            return out + (i / kDirectCols * args.out_row + i % kDirectCols * args.out_col);
          },
          c + 2 * kSpan<T> <= args.channels);
    } else {
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r, out += args.out_row)
#pragma GCC unroll 8
        for (int p = 0; p < kDirectCols; ++p) store_span(out + p * args.out_col, acc[r][p]);
    }
    if (c + kSpan<T> >= args.channels) break;
  }
}

template <class T, int K, int S>
struct DirectTiles {
  void (*run[kDirectTileRows<T>][kFootprints])(const DirectArgs<T>&) = {};

  template <int R, int kFootprint>
  constexpr void fill() {
    constexpr Footprint kThis = Footprint{kFootprint};
    // Larger kernels meet the border in too many ways.
    constexpr bool kExact = K == 3 || kThis == Footprint::kInside;
    constexpr Footprint kUsed = kExact ? kThis : Footprint::kSomeCols;
    run[R - 1][kFootprint] = &direct_tile<T, K, S, R, kUsed>;
    if constexpr (kFootprint + 1 < kFootprints) fill<R, kFootprint + 1>();
  }
  constexpr DirectTiles() {
    fill<1, 0>();
    if constexpr (kDirectTileRows<T> > 1) fill<2, 0>();
  }
};
template <class T, int K, int S>
constexpr DirectTiles<T, K, S> kDirectTiles{};

// Calls body(image, block, channel, channels) for the units [begin, end). Units are blocks of rows
// x groups of channels; the groups of a block that one call covers are one long run of channels.
template <class Body>
void for_each_channel_run(const StencilTask& task, int64_t blocks, int64_t begin, int64_t end,
                          const Body& body) {
  const int64_t images = blocks * task.batch, groups = task.plan.grid / images;
  for (int64_t unit = begin; unit < end;) {
    const bool inner = task.plan.channels_innermost;
    const int64_t item = inner ? unit / groups : unit % images;
    const int64_t group = inner ? unit % groups : unit / images;
    const int64_t count = inner ? min64(groups - group, end - unit) : 1;
    const int64_t first = group * task.plan.block_channels;
    // Channels that do not fill a vector go with the last group.
    const int64_t last =
        group + count == groups ? task.channels : first + count * task.plan.block_channels;
    body(item / blocks, item % blocks, first, last - first);
    unit += count;
  }
}

template <class T, int K, int S>
class DirectChannels {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;

 public:
  DirectChannels(const StencilTask& task, void* scratch)
      : t_(task), sums_(task), scratch_(scratch), weights_(static_cast<A*>(scratch)) {
    args_.epilogue = DirectEpilogue<A>::of(t_.activation);
    args_.source_row = t_.source_strides.h;
    args_.source_col = t_.source_strides.w;
    args_.out_row = t_.output_strides.h;
    args_.out_col = t_.output_strides.w;
    args_.streams = LineStores<T, 1>::fit(t_);
    args_.ahead.rows = kDirectTileRows<T> * S;
    args_.ahead.row_bytes = t_.source_strides.h * static_cast<int64_t>(sizeof(T));
    args_.ahead.span_bytes = kDirectCols * S * kSpan<T> * static_cast<int64_t>(sizeof(T));
  }

  void run(int64_t begin, int64_t end) {
    const int64_t rows = t_.plan.block_rows, blocks = ceil_div(t_.rows.out_size, rows);
    for_each_channel_run(t_, blocks, begin, end,
                         [&](int64_t n, int64_t block, int64_t channel, int64_t count) {
                           pack(channel, channel + count);
                           args_.channels = count;
                           args_.weights = weights_ + channel * (K * K + 1);
                           sums_.start(n, block, channel, count);
                           run_rows(n, channel, block * rows);
                         });
    if (args_.streams) stream_fence();
  }

 private:
  void pack(int64_t begin, int64_t end) {
    packed_.extend(begin, end, kSpan<T>, [&](int64_t c) {
      const int64_t channel = min64(c, t_.channels - kSpan<T>);
      for (int v = 0; v < kSpanVectors<T>; ++v) {
        A* out = weights_ + c * (K * K + 1) + v * L;
        pack_weights<T, true>(t_, channel + v, L, K * K, out + kSpan<T>, out, kSpanVectors<T>);
      }
    });
  }

  static Footprint footprint(const DirectArgs<T>& args, int64_t rows) {
    constexpr int64_t kCols = (kDirectCols - 1) * S + K;
    const int64_t left = args.first_col, right = kCols - args.last_col;
    if (left > 1 || right > 1) return Footprint::kSomeCols;
    if (left && right) return Footprint::kWithoutBoth;
    if (left) return Footprint::kWithoutLeft;
    if (right) return Footprint::kWithoutRight;
    const bool inside = args.first_row == 0 && args.last_row == rows;
    return inside ? Footprint::kInside : Footprint::kAllCols;
  }

  void run_rows(int64_t n, int64_t channel, int64_t row) {
    const int64_t end = min64(row + t_.plan.block_rows, t_.rows.out_size);
    const T* source = static_cast<const T*>(t_.source) + n * t_.source_strides.n;
    T* out = static_cast<T*>(t_.output) + n * t_.output_strides.n;
    if (t_.blocks && t_.blocks->before) {
      const BlockTensors block = t_.blocks->before(t_.blocks->context, n, row, end - row, scratch_);
      source = static_cast<const T*>(block.source);
      out = static_cast<T*>(block.output);
    }
    run_block(source + channel, out + channel, row, end);
    if (t_.blocks) t_.blocks->after(t_.blocks->context, n, row, end - row, scratch_);
  }

  void run_block(const T* source, T* out, int64_t row, int64_t end) {
    const Strides4 &s = t_.source_strides, &o = t_.output_strides;
    args_.source = source;
    for (; row < end; row += kDirectTileRows<T>) {
      const int64_t count = min64(kDirectTileRows<T>, end - row);
      const int64_t first = row * S + t_.rows.min_distance, rows = (count - 1) * S + K;
      args_.first_row = max64(0, -first);
      args_.last_row = min64(rows, t_.rows.source_size - first);
      for (int64_t next = 0; next < t_.cols.out_size; next += kDirectCols) {
        // The last tile begins earlier where the row is no multiple of it.
        const int64_t col = min64(next, t_.cols.out_size - kDirectCols);
        const int64_t left = col * S + t_.cols.min_distance;
        args_.first_col = max64(0, -left);
        args_.last_col = min64((kDirectCols - 1) * S + K, t_.cols.source_size - left);
        args_.origin = first * s.h + left * s.w;
        args_.out = out + row * o.h + col * o.w;
        if (t_.fetches_ahead) {
          const T* below = source + (first + (count - 1) * S + K) * s.h + col * S * s.w;
          args_.ahead.begin = reinterpret_cast<const char*>(below);
        }
        const auto kind = static_cast<int>(footprint(args_, rows));
        kDirectTiles<T, K, S>.run[count - 1][kind](args_);
      }
      sums_.add(row, count, 0, t_.cols.out_size);
    }
  }

  const StencilTask& t_;
  OutputSums<T> sums_;
  void* scratch_;
  A* weights_;
  PackedChannels packed_;
  DirectArgs<T> args_;
};

}  // namespace EFFKERN_ISA
}  // namespace effkern
