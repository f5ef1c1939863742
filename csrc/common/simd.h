// SIMD vectors for one instruction set, chosen by the macros of the file that includes this one:
//   EFFKERN_ISA        the namespace (baseline, avx2, avx512)
//   EFFKERN_VECTOR     bytes of a vector
// Everything lives in a namespace of its own per instruction set and nothing here uses the standard
// library's templates: the linker would merge their AVX-512 instances into the AVX2 path.
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace effkern {
namespace EFFKERN_ISA {

#define EFFKERN_INLINE inline __attribute__((always_inline))

// 16-bit storage types; arithmetic is done in float.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class A>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(EFFKERN_VECTOR)));
  typedef float unaligned __attribute__((vector_size(EFFKERN_VECTOR), aligned(4), may_alias));
  typedef int32_t mask __attribute__((vector_size(EFFKERN_VECTOR)));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(EFFKERN_VECTOR)));
  typedef double unaligned __attribute__((vector_size(EFFKERN_VECTOR), aligned(8), may_alias));
  typedef int64_t mask __attribute__((vector_size(EFFKERN_VECTOR)));
};
template <class A>
using Vec = typename Vector<A>::type;
template <class A>
constexpr int kLanes = EFFKERN_VECTOR / static_cast<int>(sizeof(A));

// The type in which T is computed and accumulated.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulate<T>::type;

template <class A>
EFFKERN_INLINE Vec<A> splat(A value) {
  return value - Vec<A>{};
}

template <class A>
EFFKERN_INLINE Vec<A> load_acc(const A* p) {
  return *reinterpret_cast<const typename Vector<A>::unaligned*>(p);
}
template <class A>
EFFKERN_INLINE void store_acc(A* p, Vec<A> v) {
  *reinterpret_cast<typename Vector<A>::unaligned*>(p) = v;
}

// A value that several instructions use, loaded once and not by each of them.
EFFKERN_INLINE Vec<float> in_register(Vec<float> v) {
#if defined(EFFKERN_X86)
  asm("" : "+x"(v));
#endif
  return v;
}

// The same value, of which the compiler does not know where it comes from.
template <class P>
EFFKERN_INLINE P opaque(P value) {
  asm("" : "+r"(value));
  return value;
}

EFFKERN_INLINE float to_acc(float v) { return v; }
EFFKERN_INLINE double to_acc(double v) { return v; }
EFFKERN_INLINE float to_acc(BFloat16 v) {
  uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
EFFKERN_INLINE float to_acc(Half v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const uint32_t magnitude = v.bits & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {
    bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400u) {
    bits = sign | ((magnitude << 13) + 0x38000000u);
  } else {
    // Subnormal: exact in float as an integer times 2^-24.
    float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  memcpy(&out, &bits, 4);
  return out;
#endif
}

EFFKERN_INLINE void from_acc(float v, float* out) { *out = v; }
EFFKERN_INLINE void from_acc(double v, double* out) { *out = v; }
EFFKERN_INLINE void from_acc(float v, BFloat16* out) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  // Round to nearest, ties to even; NaN keeps a payload bit.
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>(nan ? 0x7fc0u | (bits >> 16) : rounded);
}
EFFKERN_INLINE void from_acc(float v, Half* out) {
#if defined(__F16C__)
  out->bits = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT);
#else
  uint32_t bits;
  memcpy(&bits, &v, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    // 65520 and above round to infinity.
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {
    // Adding 0.5 lets the float unit round the subnormal to a multiple of 2^-24.
    float value;
    memcpy(&value, &magnitude, 4);
    value += 0.5f;
    memcpy(&half, &value, 4);
    half -= 0x3f000000u;
  }
  out->bits = static_cast<uint16_t>(sign | half);
#endif
}

// kLanes elements of T, converted.
EFFKERN_INLINE Vec<float> load(const float* p) { return load_acc(p); }
EFFKERN_INLINE Vec<double> load(const double* p) { return load_acc(p); }
EFFKERN_INLINE void store(float* p, Vec<float> v) { store_acc(p, v); }
EFFKERN_INLINE void store(double* p, Vec<double> v) { store_acc(p, v); }

typedef uint16_t VecU16 __attribute__((vector_size(EFFKERN_VECTOR / 2)));
typedef uint32_t VecU32 __attribute__((vector_size(EFFKERN_VECTOR)));

// g++ 12 splits a conversion of vectors between 16 and 32 bits, hence the intrinsics.
EFFKERN_INLINE Vec<float> widen(VecU16 narrow, BFloat16) {
#if defined(__AVX512F__)
  const VecU32 bits =
      reinterpret_cast<VecU32>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(narrow)));
#elif defined(__AVX2__)
  const VecU32 bits =
      reinterpret_cast<VecU32>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(narrow)));
#else
  const VecU32 bits = __builtin_convertvector(narrow, VecU32);
#endif
  return reinterpret_cast<Vec<float>>(bits << 16);
}
EFFKERN_INLINE Vec<float> widen(VecU16 narrow, Half) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec<float>>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(narrow)));
#elif defined(__F16C__)
  return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(narrow)));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_acc(Half{narrow[i]});
  return v;
#endif
}
template <class T>
EFFKERN_INLINE Vec<float> load(const T* p) {
  VecU16 narrow;
  memcpy(&narrow, p, sizeof narrow);
  return widen(narrow, T{});
}
#if defined(__AVX512F__)
// The upper 16 bits of each lane.
EFFKERN_INLINE __m256i upper_halves(__m512i v) {
  constexpr VecU32 kFirst = {0x30001,  0x70005,  0xb0009,  0xf000d,
                             0x130011, 0x170015, 0x1b0019, 0x1f001d};
  return _mm512_castsi512_si256(_mm512_permutexvar_epi16(reinterpret_cast<__m512i>(kFirst), v));
}
#endif
// Rounded to nearest, ties to even. The bits of a NaN below those of a bfloat16 must be 0, or the
// sum may overflow: so they are in all results of operands that were a bfloat16, and in the NaN
// that the unit itself makes.
EFFKERN_INLINE VecU16 narrow(Vec<float> v, BFloat16) {
  const VecU32 bits = reinterpret_cast<VecU32>(v);
#if defined(__AVX512F__)
  // Lanes that would become odd are rounded up from a half, even ones from more than it.
  const __m512i lanes = reinterpret_cast<__m512i>(bits);
  const __m512i half =
      _mm512_mask_blend_epi32(_mm512_test_epi32_mask(lanes, _mm512_set1_epi32(0x10000)),
                              _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000));
  return reinterpret_cast<VecU16>(upper_halves(_mm512_add_epi32(lanes, half)));
#else
  const VecU32 out = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
#if defined(__AVX2__)
  const __m256i wide = reinterpret_cast<__m256i>(out);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0xd8);
  return reinterpret_cast<VecU16>(_mm256_castsi256_si128(packed));
#else
  return __builtin_convertvector(out, VecU16);
#endif
#endif
}
EFFKERN_INLINE VecU16 narrow(Vec<float> v, Half) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecU16>(
      _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return reinterpret_cast<VecU16>(
      _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  Half halves[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) from_acc(static_cast<float>(v[i]), halves + i);
  VecU16 bits;
  memcpy(&bits, halves, sizeof bits);
  return bits;
#endif
}
template <class T>
EFFKERN_INLINE void store(T* p, Vec<float> v) {
  const VecU16 bits = narrow(v, T{});
  memcpy(p, &bits, sizeof bits);
}

// Past the caches, to an address that is a multiple of the size; other threads may read it after
// stream_fence(). A plain store where the processor has no other.
template <class V>
EFFKERN_INLINE void stream_bytes(void* p, V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof v == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof v == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof v == 16) return _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v);
#endif
  memcpy(p, &v, sizeof v);
}
EFFKERN_INLINE void stream(float* p, Vec<float> v) { stream_bytes(p, v); }
EFFKERN_INLINE void stream(double* p, Vec<double> v) { stream_bytes(p, v); }
template <class T>
EFFKERN_INLINE void stream(T* p, Vec<float> v) {
  stream_bytes(p, narrow(v, T{}));
}
EFFKERN_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

#pragma GCC diagnostic push
// g++ does not see that a branch for two elements is not taken for one.
#pragma GCC diagnostic ignored "-Warray-bounds"
// Fewer elements than a vector has to or from memory that may end right behind them, without a
// loop: two copies of a power of two that overlap.
template <class T>
EFFKERN_INLINE void copy_few(T* dst, const T* src, int64_t n) {
  constexpr int64_t kMost = EFFKERN_VECTOR / sizeof(T);
  const auto both = [&](int64_t size) __attribute__((always_inline)) {
    T a[16], b[16];
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    memcpy(a, src, bytes);
    memcpy(b, src + n - size, bytes);
    memcpy(dst, a, bytes);
    memcpy(dst + n - size, b, bytes);
  };
  if (kMost > 16 && n >= 16) {
    both(16);
  } else if (n >= 8) {
    both(8);
  } else if (n >= 4) {
    both(4);
  } else if (n >= 2) {
    both(2);
  } else if (n == 1) {
    *dst = *src;
  }
}
#pragma GCC diagnostic pop

#if defined(__AVX512F__)
EFFKERN_INLINE __mmask16 leading_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
#endif

// The first n >= 0 elements, or kLanes of them; the lanes beyond read as zero.
template <class T>
EFFKERN_INLINE Vec<Acc<T>> load_upto(const T* p, int64_t n) {
  constexpr int L = kLanes<Acc<T>>;
  if (n >= L) return load(p);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2) {
    const __m256i few = _mm256_maskz_loadu_epi16(leading_lanes(n), p);
    return widen(reinterpret_cast<VecU16>(few), T{});
  }
#endif
  T few[L] = {};
  copy_few(few, p, n);
  return load(few);
}
#if defined(__AVX2__) && EFFKERN_VECTOR == 32
template <>
EFFKERN_INLINE Vec<float> load_upto<float>(const float* p, int64_t n) {
  static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  if (n >= 8) return load(p);
  // A masked load touches no memory behind the mask.
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n));
  return reinterpret_cast<Vec<float>>(_mm256_maskload_ps(p, mask));
}
#elif defined(__AVX512F__)
template <>
EFFKERN_INLINE Vec<float> load_upto<float>(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(leading_lanes(n), p));
}
#endif

// Stores the first n >= 0 lanes, or all.
template <class T>
EFFKERN_INLINE void store_upto(T* p, Vec<Acc<T>> v, int64_t n) {
  constexpr int L = kLanes<Acc<T>>;
  if (n >= L) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2) {
    const __m256i bits = reinterpret_cast<__m256i>(narrow(v, T{}));
    return _mm256_mask_storeu_epi16(p, leading_lanes(n), bits);
  }
#endif
  T few[L];
  store(few, v);
  copy_few(p, few, n);
}
#if defined(__AVX512F__)
template <>
EFFKERN_INLINE void store_upto<float>(float* p, Vec<float> v, int64_t n) {
  if (n >= 16) return store(p, v);
  _mm512_mask_storeu_ps(p, leading_lanes(n), reinterpret_cast<__m512>(v));
}
#endif

// n elements, `stride` apart.
template <class T>
EFFKERN_INLINE Vec<Acc<T>> load_part(const T* p, int64_t stride, int n) {
  if (stride == 1) return load_upto(p, n);
  Acc<T> lanes[kLanes<Acc<T>>] = {};
  for (int i = 0; i < n; ++i) lanes[i] = to_acc(p[i * stride]);
  return load_acc(lanes);
}
template <class T>
EFFKERN_INLINE void store_part(T* p, int64_t stride, Vec<Acc<T>> v, int n) {
  if (stride == 1) return store_upto(p, v, n);
  Acc<T> lanes[kLanes<Acc<T>>];
  store_acc(lanes, v);
  for (int i = 0; i < n; ++i) from_acc(lanes[i], p + i * stride);
}

// n elements from src to dst, converted, both contiguous. `dst` is written in whole vectors: what
// follows it is zero or overwritten later.
template <class T>
EFFKERN_INLINE void widen_row(Acc<T>* dst, const T* src, int64_t n) {
  constexpr int L = kLanes<Acc<T>>;
  int64_t i = 0;
  for (; i + L <= n; i += L) store_acc(dst + i, load(src + i));
  if (i < n) store_acc(dst + i, load_upto(src + i, n - i));
}
template <class T>
EFFKERN_INLINE void narrow_row(T* dst, const Acc<T>* src, int64_t n) {
  constexpr int L = kLanes<Acc<T>>;
  if (n < L) return store_upto(dst, load_acc(src), n);
  int64_t i = 0;
  for (; i + L <= n; i += L) store(dst + i, load_acc(src + i));
  if (i < n) store(dst + n - L, load_acc(src + n - L));
}

// rows[i][j] -> rows[j][i], as many rows as lanes: pairs, then quadruples within 16 bytes, then
// pieces of 16 bytes.
#if EFFKERN_VECTOR == 16
EFFKERN_INLINE void transpose(Vec<float> (&rows)[4]) {
  const Vec<float> a = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Vec<float> b = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Vec<float> c = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Vec<float> d = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  rows[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  rows[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  rows[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
#elif EFFKERN_VECTOR == 32
EFFKERN_INLINE void transpose(Vec<float> (&rows)[8]) {
  Vec<float> a[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[i + 1] = __builtin_shufflevector(rows[i], rows[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  Vec<float> b[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = __builtin_shufflevector(a[i + j], a[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 2 * j + 1] =
          __builtin_shufflevector(a[i + j], a[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    rows[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
#else
EFFKERN_INLINE void transpose(Vec<float> (&rows)[16]) {
  Vec<float> a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25,
                                   12, 28, 13, 29);
    a[i + 1] = __builtin_shufflevector(rows[i], rows[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11,
                                       27, 14, 30, 15, 31);
  }
  Vec<float> b[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = __builtin_shufflevector(a[i + j], a[i + j + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8,
                                             9, 24, 25, 12, 13, 28, 29);
      b[i + 2 * j + 1] = __builtin_shufflevector(a[i + j], a[i + j + 2], 2, 3, 18, 19, 6, 7, 22, 23,
                                                 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    Vec<float> low[2], high[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vec<float> x = b[8 * i + j], y = b[8 * i + 4 + j];
      low[i] =
          __builtin_shufflevector(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
      high[i] = __builtin_shufflevector(x, y, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29,
                                        30, 31);
    }
    rows[j] = __builtin_shufflevector(low[0], low[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20,
                                      21, 22, 23);
    rows[4 + j] = __builtin_shufflevector(low[0], low[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26,
                                          27, 28, 29, 30, 31);
    rows[8 + j] = __builtin_shufflevector(high[0], high[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19,
                                          20, 21, 22, 23);
    rows[12 + j] = __builtin_shufflevector(high[0], high[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25,
                                           26, 27, 28, 29, 30, 31);
  }
}
#endif
// Float64 takes no part where time matters.
EFFKERN_INLINE void transpose(Vec<double> (&rows)[kLanes<double>]) {
  double in[kLanes<double>][kLanes<double>];
  for (int i = 0; i < kLanes<double>; ++i) store_acc(in[i], rows[i]);
  for (int i = 0; i < kLanes<double>; ++i) {
    for (int j = 0; j < kLanes<double>; ++j) rows[i][j] = in[j][i];
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern

#include "common/simd_clamp.h"
