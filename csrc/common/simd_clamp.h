// Limits of vectors. Included by simd.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// NaN stays NaN, as in torch's clamp and relu.
template <class A>
EFFKERN_INLINE Vec<A> at_least(Vec<A> v, Vec<A> lo) {
  return v < lo ? lo : v;
}
template <class A>
EFFKERN_INLINE Vec<A> at_most(Vec<A> v, Vec<A> hi) {
  return v > hi ? hi : v;
}
// The same in one instruction, which the compiler does not find.
#if EFFKERN_VECTOR == 64
template <>
EFFKERN_INLINE Vec<float> at_least<float>(Vec<float> v, Vec<float> lo) {
  return reinterpret_cast<Vec<float>>(_mm512_max_ps(lo, v));
}
template <>
EFFKERN_INLINE Vec<float> at_most<float>(Vec<float> v, Vec<float> hi) {
  return reinterpret_cast<Vec<float>>(_mm512_min_ps(hi, v));
}
#elif EFFKERN_VECTOR == 32
template <>
EFFKERN_INLINE Vec<float> at_least<float>(Vec<float> v, Vec<float> lo) {
  return reinterpret_cast<Vec<float>>(_mm256_max_ps(lo, v));
}
template <>
EFFKERN_INLINE Vec<float> at_most<float>(Vec<float> v, Vec<float> hi) {
  return reinterpret_cast<Vec<float>>(_mm256_min_ps(hi, v));
}
#endif
template <class A>
EFFKERN_INLINE Vec<A> clamp(Vec<A> v, Vec<A> lo, Vec<A> hi) {
  return at_most<A>(at_least<A>(v, lo), hi);
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
