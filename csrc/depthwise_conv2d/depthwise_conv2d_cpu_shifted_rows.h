// Tiles of the direct forward of contiguous images with AVX-512: each row of the image is loaded
// and converted once, and what the columns of the kernel meet is shifted out of registers. Masked
// loads and stores touch nothing beside the image. The last columns of a row may be vectors of 8
// lanes. Included after the row windows, by the direct forward of contiguous images.
namespace effkern {
namespace EFFKERN_ISA {

template <class T>
constexpr bool kIsHalf = false;
template <>
constexpr bool kIsHalf<Half> = true;
template <class T>
constexpr bool kIsBFloat16 = false;
template <>
constexpr bool kIsBFloat16<BFloat16> = true;

// Bits of the positions first, first + 1, ... that lie in [0, size); 32 at most.
EFFKERN_INLINE uint32_t positions_inside(int64_t first, int64_t size) {
  const int64_t begin = max64(0, min64(-first, 32)), end = max64(begin, min64(size - first, 32));
  return static_cast<uint32_t>((uint64_t{1} << end) - (uint64_t{1} << begin));
}

// Lanes of the loads and of the stores of a strip.
struct StripMasks {
  uint32_t load[6], store[2];
};

// The strips of a row, in their order.
template <class T, int K, int S, class F>
EFFKERN_INLINE void each_strip(const RowsArgs<T>& args, const F& run) {
  int64_t col = 0, left = args.out_width;
  const auto next = [&](auto pixels, auto vectors) __attribute__((always_inline)) {
    constexpr int L = decltype(pixels)::L, V = decltype(vectors)::V;
    // A vector of bfloat16 is loaded with all that it meets.
    constexpr bool kWhole = S == 1 && kIsBFloat16<T>;
    if (kWhole || (col + V * L) * S - args.pad >= args.width) {
      run(Strip<V, L, false>{}, col);
    } else if constexpr (!kWhole) {
      run(Strip<V, L, true>{}, col);
    }
    left -= V * L, col += V * L;
  };
  using One = Strip<1, 0, false>;
  using Two = Strip<2, 0, false>;
  // Two vectors of float16 share a conversion, those of strided images their shuffles; others
  // would spill, or are no faster.
  if constexpr (S == 2 || (K == 3 && kIsHalf<T>)) {
    while (left > 24) next(Pixels<16>{}, Two{});
  }
  while (left > 8) next(Pixels<16>{}, One{});
  if (left > 0) next(Pixels<8>{}, One{});
}

template <class T, int S, class Strip>
void mask_strip(Strip, const RowsArgs<T>& args, int64_t col, StripMasks* masks) {
  using Window = RowWindow<T, S, Strip>;
  for (int i = 0; i < Window::kLoads; ++i) {
    masks->load[i] = positions_inside(col * S - args.pad + i * Window::kStep, args.width);
  }
  for (int v = 0; v < Strip::V; ++v) {
    masks->store[v] = positions_inside(col + v * Strip::L, args.out_width);
  }
}

template <bool kDot, class Strip, class T, int N>
EFFKERN_INLINE void store_rows(const RowsArgs<T>& args, int64_t col, const StripMasks& masks,
                               const typename Pixels<Strip::L>::F (&tile)[N]) {
  using P = Pixels<Strip::L>;
  // Read before the stores, which might change them for all that the compiler knows.
  const uint32_t mask[2] = {masks.store[0], masks.store[1]};
  const int64_t out_row = args.out_row;
  T* out = args.out + col;
#pragma GCC unroll 8
  for (int r = 0; r < N / Strip::V; ++r, out += out_row) {
#pragma GCC unroll 2
    for (int v = 0; v < Strip::V; ++v) {
      const typename P::F value = tile[r * Strip::V + v];
      if constexpr (kDot) {
        P::store_dots(out + v * Strip::L, mask[v], value);
      } else {
        P::store(out + v * Strip::L, mask[v], value);
      }
    }
  }
}

// Apart, so that the tiles without such an activation stay in registers.
template <bool kDot, class Strip, class T, int N>
__attribute__((noinline)) void activate_rows(const RowsArgs<T>& args, int64_t col,
                                             const StripMasks& masks, Vec<float> (&values)[N]) {
  activate_all<float>(values, N, args.epilogue.activation);
  typename Pixels<Strip::L>::F tile[N];
  for (int i = 0; i < N; ++i) tile[i] = Pixels<Strip::L>::lanes(values[i]);
  store_rows<kDot, Strip>(args, col, masks, tile);
}

// kDot: pairs of products of bfloat16, added by one instruction each.
template <class T, int K, int S, int R, bool kDot, class Strip>
EFFKERN_INLINE void shifted_rows_strip(Strip, const RowsArgs<T>& args, int64_t col,
                                       const StripMasks& masks) {
  using P = Pixels<Strip::L>;
  constexpr int V = Strip::V, kTaps = kDot ? (K + 1) / 2 : K;
  const int64_t first = col * S - args.pad;
  // Additions of products of bfloat16 take longer: rows of larger kernels take turns.
  constexpr int kChains = kDot && K > 3 ? 2 : 1;
  typename P::F acc[kChains][R * V];
#pragma GCC unroll 32
  for (int r = 0; r < kChains * R * V; ++r) {
    acc[r / (R * V)][r % (R * V)] = P::splat(r < R * V ? args.bias : 0.f);
  }
  const float* weights = kDot ? args.weight_pairs : args.weights;
#pragma GCC unroll 20
  for (int row = 0; row < (R - 1) * S + K; ++row) {
    RowWindow<T, S, Strip> window;
    window.load(args.rows[row] + first, masks.load);
    // Weights of 3x3 stay in registers, others are operands in memory: not the same ones twice.
    if constexpr (K > 3) weights = opaque(weights);
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) {
      typename P::F x[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        if constexpr (kDot) {
          x[v] = window.template pair_at<K>(v, 2 * j);
        } else {
          x[v] = window.at(v, j);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) {
        const int r = (row - i) / S;
        if (row < i || (row - i) % S != 0 || r >= R) continue;
        const float* w = weights + (i * kTaps + j);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          typename P::F& sum = acc[i % kChains][r * V + v];
          if constexpr (!kDot) {
            sum = P::fma(P::splat(*w), x[v], sum);
          } else if constexpr (K == 3) {
            sum = P::dot(sum, P::splat(*w), x[v]);
          } else {
            sum = P::dot(sum, w, x[v]);
          }
        }
      }
    }
  }
  if constexpr (kChains == 2) {
#pragma GCC unroll 16
    for (int r = 0; r < R * V; ++r) acc[0][r] += acc[1][r];
  }
  if (__builtin_expect(args.epilogue.activation != Activation::kNone, 0)) {
    Vec<float> values[R * V];
#pragma GCC unroll 16
    for (int r = 0; r < R * V; ++r) values[r] = P::vector(acc[0][r]);
    activate_rows<kDot, Strip>(args, col, masks, values);
    return;
  }
  if (args.epilogue.clamps) {
    const Vec<float> low = splat(0.f), high = splat(args.epilogue.hi);
#pragma GCC unroll 16
    for (int r = 0; r < R * V; ++r) {
      acc[0][r] = P::lanes(clamp<float>(P::vector(acc[0][r]), low, high));
    }
  }
  store_rows<kDot, Strip>(args, col, masks, acc[0]);
}

template <class T, int K, int S, int R, bool kDot>
void shifted_rows_all(const RowsArgs<T>& args) {
  const StripMasks* kept = args.strips;
  each_strip<T, K, S>(args, [&](auto strip, int64_t col) __attribute__((always_inline)) {
    StripMasks computed;
    if (!kept) mask_strip<T, S>(strip, args, col, &computed);
    shifted_rows_strip<T, K, S, R, kDot>(strip, args, col, kept ? *kept++ : computed);
  });
}

// The weights of a bfloat16 kernel as shifted_rows_strip takes them: columns 2 j and 2 j + 1 of a
// row in one number, the last one in its upper half. `weights` are those of one channel, without
// gaps, in this order or in its reverse.
template <int K>
EFFKERN_INLINE void pair_weights(const BFloat16* weights, bool flipped, float* pairs) {
  constexpr int kPairs = (K + 1) / 2;
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kPairs; ++j) {
      const bool last = 2 * j + 1 == K;
      const int at = i * K + 2 * j, from = flipped ? K * K - 1 - at - !last : at;
      uint32_t pair;
      if (last) {
        pair = static_cast<uint32_t>(weights[from].bits) << 16;
      } else {
        memcpy(&pair, weights + from, 4);
        if (flipped) pair = pair << 16 | pair >> 16;
      }
      memcpy(pairs + i * kPairs + j, &pair, 4);
    }
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
