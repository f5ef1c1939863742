// Vectors of pixels of a row: masked at the borders, and the even and the odd ones of two vectors.
// Included after simd_span.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// A mask has the lanes of the elements in memory.
template <class T>
struct LaneMaskOf {
  typedef int16_t type __attribute__((vector_size(EFFKERN_VECTOR / 2)));
};
template <>
struct LaneMaskOf<float> {
  using type = Vector<float>::mask;
};
template <class T>
using LaneMask = typename LaneMaskOf<T>::type;

// Which of the positions first, first + 1, ... lie in [0, size); both fit an int32.
template <class T>
EFFKERN_INLINE LaneMask<T> lanes_inside(int64_t first, int64_t size) {
  Vector<float>::mask position;
  for (int i = 0; i < kLanes<float>; ++i) position[i] = i;
  position += static_cast<int32_t>(first);
  return __builtin_convertvector((position >= 0) & (position < static_cast<int32_t>(size)),
                                 LaneMask<T>);
}
// Lanes whose mask is 0 touch no memory and are zero.
EFFKERN_INLINE Vec<float> load_masked(const float* p, LaneMask<float> mask) {
#if defined(__AVX512F__)
  const __m512i bits = reinterpret_cast<__m512i>(mask);
  return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(_mm512_movepi32_mask(bits), p));
#elif defined(__AVX2__) && EFFKERN_VECTOR == 32
  return reinterpret_cast<Vec<float>>(_mm256_maskload_ps(p, reinterpret_cast<__m256i>(mask)));
#else
  Vec<float> v{};
  for (int i = 0; i < kLanes<float>; ++i) {
    if (mask[i]) v[i] = p[i];
  }
  return v;
#endif
}
// All lanes are read, those whose mask is 0 become zero.
template <class T>
EFFKERN_INLINE Vec<float> load_masked(const T* p, LaneMask<T> mask) {
  VecU16 bits;
  memcpy(&bits, p, sizeof bits);
  return widen(bits & reinterpret_cast<VecU16>(mask), T{});
}

// The even or the odd lanes of two vectors, in an order that is cheap to make; unfold() mends it,
// and fold() makes it.
#if EFFKERN_VECTOR == 16
EFFKERN_INLINE Vec<float> even_lanes(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6);
}
EFFKERN_INLINE Vec<float> odd_lanes(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
EFFKERN_INLINE Vec<float> unfold(Vec<float> v) { return v; }
EFFKERN_INLINE Vec<float> fold(Vec<float> v) { return v; }
#elif EFFKERN_VECTOR == 32
EFFKERN_INLINE Vec<float> even_lanes(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
}
EFFKERN_INLINE Vec<float> odd_lanes(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
EFFKERN_INLINE Vec<float> unfold(Vec<float> v) {
  return __builtin_shufflevector(v, v, 0, 1, 4, 5, 2, 3, 6, 7);
}
EFFKERN_INLINE Vec<float> fold(Vec<float> v) { return unfold(v); }
#else
EFFKERN_INLINE Vec<float> even_lanes(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
}
EFFKERN_INLINE Vec<float> odd_lanes(Vec<float> a, Vec<float> b) {
  return __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
EFFKERN_INLINE Vec<float> unfold(Vec<float> v) {
  return __builtin_shufflevector(v, v, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
}
EFFKERN_INLINE Vec<float> fold(Vec<float> v) {
  return __builtin_shufflevector(v, v, 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
}
#endif

// The even and the odd of 2 * kLanes elements, in the order that pixel_order() mends.
struct EvenOdd {
  Vec<float> even, odd;
};
template <class T>
EFFKERN_INLINE EvenOdd load_even_odd(const T* p) {
  const Vec<float> x = load(p), y = load(p + kLanes<float>);
  return {even_lanes(x, y), odd_lanes(x, y)};
}
// With the masks of both vectors.
template <class T>
EFFKERN_INLINE EvenOdd load_even_odd_masked(const T* p, const LaneMask<T>* masks) {
  const Vec<float> x = load_masked(p, masks[0]), y = load_masked(p + kLanes<float>, masks[1]);
  return {even_lanes(x, y), odd_lanes(x, y)};
}
template <class T>
EFFKERN_INLINE Vec<float> pixel_order(Vec<float> v) {
  return unfold(v);
}
// And makes.
template <class T>
EFFKERN_INLINE Vec<float> fold_pixels(Vec<float> v) {
  return fold(v);
}

#if defined(__AVX2__)
template <>
EFFKERN_INLINE EvenOdd load_even_odd(const BFloat16* p) {
  const Span<BFloat16> span = load_span(p);
  return {span.v[0], span.v[1]};
}
template <>
EFFKERN_INLINE EvenOdd load_even_odd_masked(const BFloat16* p, const LaneMask<BFloat16>* masks) {
  VecU32 bits, mask;
  memcpy(&bits, p, sizeof bits);
  memcpy(&mask, masks, sizeof mask);
  const Span<BFloat16> span = split_pairs(bits & mask);
  return {span.v[0], span.v[1]};
}
template <>
EFFKERN_INLINE Vec<float> pixel_order<BFloat16>(Vec<float> v) {
  return v;
}
template <>
EFFKERN_INLINE Vec<float> fold_pixels<BFloat16>(Vec<float> v) {
  return v;
}
#endif

}  // namespace EFFKERN_ISA
}  // namespace effkern
