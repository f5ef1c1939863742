// The two register tiles of the CPU kernels. Both serve channels_last and contiguous images: the
// packed source looks the same to them, only the meaning of a lane (channel or pixel) differs.
// Included after simd.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Registers: accumulators + one weight, with the source as a memory operand (AVX2, AVX-512), or
// + two (SSE, whose unaligned loads need a register).
#if EFFKERN_VECTOR == 64
constexpr int kMaxTile = 28;
#elif EFFKERN_VECTOR == 32
constexpr int kMaxTile = 14;
#else
constexpr int kMaxTile = 12;
#endif
constexpr int kMaxCols = kMaxTile < kTileColsBound ? kMaxTile : kTileColsBound;
constexpr int kMaxRows = kTileRowsBound;

constexpr int max_tile_rows(int cols) {
  return kMaxTile / cols < kMaxRows ? kMaxTile / cols : kMaxRows;
}

// Taps that are added up one after the other. The rounding errors of a sum grow with the length of
// its chain; 7x7 and everything below is one chain, which costs nothing.
constexpr int64_t kTapChain = 64;

template <class A>
struct TileArgs {
  const A* source;
  // Distance of the source rows that two neighbouring output rows read with the same tap.
  int64_t source_row;
  const int64_t* offsets;
  const A* weights;
  int64_t taps;
  const A* bias;
  A lo, hi;
  A* out;
  int64_t out_row, out_col;
  // Of a dense tile: taps of a row of the kernel, and which of them the first output column meets
  // the first column of the image with.
  int64_t row_taps, first_tap;
};

// The end of a tile: the chains before the last one, bounds, and out.
template <class A, int R, int V>
EFFKERN_INLINE void finish_tile(const TileArgs<A>& args, Vec<A> (&acc)[R][V],
                                const Vec<A> (&total)[R][V], bool chained) {
  if (chained) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[r][v] += total[r][v];
  }
  const Vec<A> lo = splat(args.lo), hi = splat(args.hi);
  A* out = args.out;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, out += args.out_row) {
    A* p = out;
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v, p += args.out_col) store_acc(p, clamp<A>(acc[r][v], lo, hi));
  }
}

// Begins another chain, which `total` takes the sums of; `first`: the first one has ended.
template <class A, int R, int V>
EFFKERN_INLINE void end_chain(Vec<A> (&acc)[R][V], Vec<A> (&total)[R][V], bool first) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      total[r][v] = first ? acc[r][v] : total[r][v] + acc[r][v];
      acc[r][v] = Vec<A>{};
    }
}

// out[r][v] = clamp(bias + sum over taps of weight[tap] * source[r][v + tap]), R x V vectors. With
// kBroadcast a weight is one number for all lanes, otherwise a vector.
template <class A, int R, int V, bool kBroadcast>
void stencil_tile(const TileArgs<A>& args) {
  constexpr int L = kLanes<A>;
  Vec<A> acc[R][V];
  const Vec<A> bias = kBroadcast ? splat(*args.bias) : load_acc(args.bias);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = bias;
  const A* weight = args.weights;
  // Sums of the chains before the current one; only large kernels have more than one.
  Vec<A> total[R][V];
  for (int64_t k = 0; k < args.taps;) {
    if (k > 0) end_chain<A, R, V>(acc, total, k <= kTapChain);
    const int64_t end = k + kTapChain < args.taps ? k + kTapChain : args.taps;
    for (; k < end; ++k) {
      const Vec<A> w = kBroadcast ? splat(*weight) : load_acc(weight);
      weight += kBroadcast ? 1 : L;
      const A* source = args.source + args.offsets[k];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[r][v] += w * load_acc(source + v * L);
        source += args.source_row;
      }
    }
  }
  finish_tile<A, R, V>(args, acc, total, args.taps > kTapChain);
}

// The same where each of the V columns of the output meets each of the V columns of the image: the
// taps that meet only the padding are left out, column by column, which is half of them and more.
// A lane is a channel.
template <class A, int R, int V>
void dense_tile(const TileArgs<A>& args) {
  constexpr int L = kLanes<A>;
  // Rows of the kernel in a chain.
  constexpr int64_t kRows = kTapChain / V > 0 ? kTapChain / V : 1;
  Vec<A> acc[R][V], total[R][V];
  const Vec<A> bias = load_acc(args.bias);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = bias;
  const int64_t* offsets = args.offsets + args.first_tap;
  const A* weights = args.weights + args.first_tap * L;
  const int64_t rows = args.taps / args.row_taps;
  for (int64_t i = 0; i < rows;) {
    if (i > 0) end_chain<A, R, V>(acc, total, i <= kRows);
    const int64_t end = i + kRows < rows ? i + kRows : rows;
    for (; i < end; ++i, offsets += args.row_taps, weights += args.row_taps * L) {
      const A *source = args.source + *offsets, *weight = weights;
      for (int u = 0; u < V; ++u, source += L, weight += L) {
        Vec<A> x[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) x[r] = load_acc(source + r * args.source_row);
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
          const Vec<A> w = load_acc(weight - v * L);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) acc[r][v] += w * x[r];
        }
      }
    }
  }
  finish_tile<A, R, V>(args, acc, total, rows > kRows);
}

template <class A>
struct GradTileArgs {
  const A* source;
  const A* grad;
  // Steps from one output row or column to the next.
  int64_t source_row, source_col, grad_row;
  int64_t rows, cols;
  // Valid lanes of one more, partial vector at the end of each row, or 0.
  int tail;
  // Distances between neighbouring taps in the source and in the result.
  int64_t tap_row, tap_col;
  A* out;
  int64_t out_row, out_col;
};

// out[r][v] += sum over pixels of grad[pixel] * source[pixel + tap (r, v)], R x V taps.
template <class A, int R, int V>
void grad_tile(const GradTileArgs<A>& args) {
  constexpr int L = kLanes<A>;
  typedef typename Vector<A>::mask Mask;
  Vec<A> acc[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = Vec<A>{};
  Mask mask;
  for (int i = 0; i < L; ++i) mask[i] = i < args.tail ? -1 : 0;
  const int64_t tap_row = args.tap_row, tap_col = args.tap_col;
  for (int64_t y = 0; y < args.rows; ++y) {
    const A* source = args.source + y * args.source_row;
    const A* grad = args.grad + y * args.grad_row;
    for (int64_t x = 0; x < args.cols; ++x) {
      const Vec<A> g = load_acc(grad);
      const A* s = source;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[r][v] += g * load_acc(s + v * tap_col);
        s += tap_row;
      }
      grad += L;
      source += args.source_col;
    }
    if (args.tail) {
      const Vec<A> g = load_acc(grad);
      const A* s = source;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
          // Lanes beyond the row may hold an infinity that belongs to other taps.
          const Mask bits = reinterpret_cast<Mask>(load_acc(s + v * tap_col)) & mask;
          acc[r][v] += g * reinterpret_cast<Vec<A>>(bits);
        }
        s += tap_row;
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      A* p = args.out + r * args.out_row + v * args.out_col;
      store_acc(p, load_acc(p) + acc[r][v]);
    }
}

template <class A, bool kBroadcast>
struct StencilTiles {
  void (*run[kMaxCols][kMaxRows])(const TileArgs<A>&) = {};

  template <int V, int R>
  constexpr void fill() {
    if constexpr (R <= max_tile_rows(V)) run[V - 1][R - 1] = &stencil_tile<A, R, V, kBroadcast>;
    if constexpr (R < kMaxRows) {
      fill<V, R + 1>();
    } else if constexpr (V < kMaxCols) {
      fill<V + 1, 1>();
    }
  }
  constexpr StencilTiles() { fill<1, 1>(); }
};

// Rows of a dense tile: with two, each weight is loaded once for both.
constexpr int max_dense_rows(int cols) { return kMaxTile / cols < 2 ? 1 : 2; }

template <class A>
struct DenseTiles {
  void (*run[kMaxCols][2])(const TileArgs<A>&) = {};

  template <int V>
  constexpr void fill() {
    run[V - 1][0] = &dense_tile<A, 1, V>;
    if constexpr (max_dense_rows(V) > 1) run[V - 1][1] = &dense_tile<A, 2, V>;
    if constexpr (V < kMaxCols) fill<V + 1>();
  }
  constexpr DenseTiles() { fill<1>(); }
};

template <class A>
struct GradTiles {
  void (*run[kMaxCols][kMaxRows])(const GradTileArgs<A>&) = {};

  template <int V, int R>
  constexpr void fill() {
    if constexpr (R <= max_tile_rows(V)) run[V - 1][R - 1] = &grad_tile<A, R, V>;
    if constexpr (R < kMaxRows) {
      fill<V, R + 1>();
    } else if constexpr (V < kMaxCols) {
      fill<V + 1, 1>();
    }
  }
  constexpr GradTiles() { fill<1, 1>(); }
};

template <class A, bool kBroadcast>
constexpr StencilTiles<A, kBroadcast> kStencilTiles{};
template <class A>
constexpr DenseTiles<A> kDenseTiles{};
template <class A>
constexpr GradTiles<A> kGradTiles{};

}  // namespace EFFKERN_ISA
}  // namespace effkern
