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
};

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
    if (k > 0) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
          total[r][v] = k > kTapChain ? total[r][v] + acc[r][v] : acc[r][v];
          acc[r][v] = Vec<A>{};
        }
    }
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
  if (args.taps > kTapChain) {
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
constexpr GradTiles<A> kGradTiles{};

}  // namespace EFFKERN_ISA
}  // namespace effkern
