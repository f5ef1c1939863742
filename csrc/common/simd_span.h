// Channels as the direct kernels for channels_last images walk over them, kSpan adjacent ones at a
// time. A span of float32 or float16 is one vector. A span of bfloat16 is two: a pair of elements
// is a 32-bit lane whose high half is the odd element as a float32, but for the bits below it, and
// whose low half is the even one, so that one instruction each makes a vector of the even and of
// the odd elements, where elements in their order cost a shuffle besides.
// Included after simd.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

template <class T>
constexpr int kSpanVectors = 1;
#if defined(__AVX2__)
template <>
constexpr int kSpanVectors<BFloat16> = 2;
#endif
template <class T>
constexpr int kSpan = kSpanVectors<T> * kLanes<Acc<T>>;

// Lane l of vector v is element kSpanVectors * l + v.
template <class T>
struct Span {
  Vec<Acc<T>> v[kSpanVectors<T>];
};

template <class T>
EFFKERN_INLINE Span<T> load_span(const T* p) {
  return {{load(p)}};
}
template <class T>
EFFKERN_INLINE void store_span(T* p, const Span<T>& span) {
  store(p, span.v[0]);
}
template <class T>
EFFKERN_INLINE void stream_span(T* p, const Span<T>& span) {
  stream(p, span.v[0]);
}

#if defined(__AVX2__)
typedef uint16_t VecPairs __attribute__((vector_size(EFFKERN_VECTOR)));

EFFKERN_INLINE Span<BFloat16> split_pairs(VecU32 bits) {
  return {
      {reinterpret_cast<Vec<float>>(bits << 16), reinterpret_cast<Vec<float>>(bits & 0xffff0000u)}};
}
template <>
EFFKERN_INLINE Span<BFloat16> load_span(const BFloat16* p) {
  VecU32 bits;
  memcpy(&bits, p, sizeof bits);
  return split_pairs(bits);
}

// The even 16-bit elements of a, the odd ones of b.
EFFKERN_INLINE VecPairs blend_pairs(VecU32 a, VecU32 b) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecPairs>(_mm512_mask_blend_epi16(
      0xaaaaaaaa, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
  return reinterpret_cast<VecPairs>(
      _mm256_blend_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b), 0xaa));
#endif
}
EFFKERN_INLINE VecPairs subtract_saturated(VecPairs a, VecPairs b) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecPairs>(
      _mm512_subs_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
  return reinterpret_cast<VecPairs>(
      _mm256_subs_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#endif
}

// Rounds as narrow() does, and expects the same of a NaN.
EFFKERN_INLINE VecPairs narrow_span(const Span<BFloat16>& span) {
  const VecU32 even = reinterpret_cast<VecU32>(span.v[0]);
  const VecU32 odd = reinterpret_cast<VecU32>(span.v[1]);
  const VecPairs high = blend_pairs(even >> 16, odd), low = blend_pairs(even, odd << 16);
  // Up if `low` is more than a half, or if it is one and `high` is odd.
  const VecPairs up = subtract_saturated(low, ~high & uint16_t{1}) >> 15;
  return high + up;
}
template <>
EFFKERN_INLINE void store_span(BFloat16* p, const Span<BFloat16>& span) {
  const VecPairs out = narrow_span(span);
  memcpy(p, &out, sizeof out);
}
template <>
EFFKERN_INLINE void stream_span(BFloat16* p, const Span<BFloat16>& span) {
  stream_bytes(p, narrow_span(span));
}
#endif

// The elements of a span in their order.
template <class T>
EFFKERN_INLINE Span<T> element_order(const Span<T>& span) {
  if constexpr (kSpanVectors<T> == 1) {
    return span;
  } else {
    const Vec<float> even = span.v[0], odd = span.v[1];
#if EFFKERN_VECTOR == 64
    return {
        {__builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
         __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                 15, 31)}};
#elif EFFKERN_VECTOR == 32
    return {{__builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11),
             __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15)}};
#endif
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
