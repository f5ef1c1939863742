// Rows of an image in registers, with AVX-512: what each column of a kernel meets is shifted out of
// vectors that are loaded and converted once. Included before the tiles that are made of them.
namespace effkern {
namespace EFFKERN_ISA {

// Lanes j, j + 1, ... of two vectors one after the other.
#define EFFKERN_SHIFT(shift, high, low, j) \
  switch (j) {                             \
    case 0:                                \
      return low;                          \
    case 1:                                \
      return shift(high, low, 1);          \
    case 2:                                \
      return shift(high, low, 2);          \
    case 3:                                \
      return shift(high, low, 3);          \
    case 4:                                \
      return shift(high, low, 4);          \
    case 5:                                \
      return shift(high, low, 5);          \
    default:                               \
      return shift(high, low, 6);          \
  }

// Vectors of L floats, and of the 2 L elements of 16 bits in as many bytes.
template <int L>
struct Pixels;

template <>
struct Pixels<8> {
  static constexpr int L = 8;
  using F = __m256;
  using I = __m256i;
  typedef uint32_t Words __attribute__((vector_size(32)));
  static constexpr Words kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7};
  static EFFKERN_INLINE F splat(float v) { return _mm256_set1_ps(v); }
  static EFFKERN_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static EFFKERN_INLINE F floats(I v) { return _mm256_castsi256_ps(v); }
  static EFFKERN_INLINE I widened(__m256 v) { return _mm256_castps_si256(v); }
  static EFFKERN_INLINE I bits(F v) { return _mm256_castps_si256(v); }
  static EFFKERN_INLINE I shift(I high, I low, int j) {
    EFFKERN_SHIFT(_mm256_alignr_epi32, high, low, j)
  }
  static EFFKERN_INLINE F load(const float* p, uint32_t mask) {
    return _mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), p);
  }
  static EFFKERN_INLINE F load(const Half* p, uint32_t mask) {
    F v;
    asm("vcvtph2ps %1, %0%{%2%}%{z%}"
        : "=v"(v)
        : "m"(*reinterpret_cast<const __m128i_u*>(p)), "Yk"(static_cast<__mmask8>(mask)));
    return v;
  }
  template <class T>
  static EFFKERN_INLINE I load_words(const T* p, uint32_t mask) {
    return _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
  }
  static EFFKERN_INLINE I upper_words(I v, uint32_t j) {
    const Words low = kLaneNumbers + j;
    return _mm256_maskz_permutexvar_epi16(0xaaaa, (I)(low << 16), v);
  }
  static EFFKERN_INLINE I word_pairs(I v, uint32_t j) {
    const Words low = kLaneNumbers + j;
    return _mm256_permutexvar_epi16((I)(low | (low + 1u) << 16), v);
  }
  static EFFKERN_INLINE F dot(F sum, F a, F b) {
    return _mm256_dpbf16_ps(sum, (__m256bh)a, (__m256bh)b);
  }
  static EFFKERN_INLINE void store_dots(BFloat16* p, uint32_t mask, F v) {
    store_words(p, mask, (__m128i)_mm256_cvtneps_pbh(v));
  }
  static EFFKERN_INLINE F dot(F sum, const float* a, F b) {
    asm("vdpbf16ps %2%{1to8%}, %1, %0" : "+v"(sum) : "v"(b), "m"(*a));
    return sum;
  }
  static EFFKERN_INLINE I even_words(I v) { return _mm256_slli_epi32(v, 16); }
  static EFFKERN_INLINE I odd_words(I v) {
    return _mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000)));
  }
  static EFFKERN_INLINE void split(I halves, F* even, F* odd) {
    const I index =
        _mm256_setr_epi32(0x20000, 0x60004, 0xa0008, 0xe000c, 0x30001, 0x70005, 0xb0009, 0xf000d);
    const I words = _mm256_permutexvar_epi16(index, halves);
    *even = _mm256_cvtph_ps(_mm256_castsi256_si128(words));
    *odd = _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1));
  }
  static EFFKERN_INLINE void split(F low, F high, F* even, F* odd) {
    const I index = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    *even = _mm256_permutex2var_ps(low, index, high);
    *odd = _mm256_permutex2var_ps(low, _mm256_add_epi32(index, _mm256_set1_epi32(1)), high);
  }
  static EFFKERN_INLINE Vec<float> vector(F v) { return (Vec<float>)_mm512_castps256_ps512(v); }
  static EFFKERN_INLINE F lanes(Vec<float> v) { return _mm512_castps512_ps256((__m512)v); }
  static EFFKERN_INLINE void store(float* p, uint32_t mask, F v) {
    _mm256_mask_storeu_ps(p, static_cast<__mmask8>(mask), v);
  }
  static EFFKERN_INLINE void store(Half* p, uint32_t mask, F v) {
    asm("vcvtps2ph $0, %1, %0%{%2%}"
        : "+m"(*reinterpret_cast<__m128i_u*>(p))
        : "v"(v), "Yk"(static_cast<__mmask8>(mask)));
  }
  // As narrow().
  static EFFKERN_INLINE void store(BFloat16* p, uint32_t mask, F v) {
    const I half =
        _mm256_mask_blend_epi32(_mm256_test_epi32_mask(bits(v), _mm256_set1_epi32(0x10000)),
                                _mm256_set1_epi32(0x7fff), _mm256_set1_epi32(0x8000));
    const I index = _mm256_setr_epi32(0x30001, 0x70005, 0xb0009, 0xf000d, 0, 0, 0, 0);
    const I words = _mm256_permutexvar_epi16(index, _mm256_add_epi32(bits(v), half));
    store_words(p, mask, _mm256_castsi256_si128(words));
  }

 private:
  static EFFKERN_INLINE void store_words(void* p, uint32_t mask, __m128i words) {
    _mm_mask_storeu_epi16(p, static_cast<__mmask8>(mask), words);
  }
};

template <>
struct Pixels<16> {
  static constexpr int L = 16;
  using F = __m512;
  using I = __m512i;
  static EFFKERN_INLINE F splat(float v) { return _mm512_set1_ps(v); }
  static EFFKERN_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static EFFKERN_INLINE F floats(I v) { return _mm512_castsi512_ps(v); }
  static EFFKERN_INLINE I widened(__m256 v) {
    return _mm512_castsi256_si512(_mm256_castps_si256(v));
  }
  static EFFKERN_INLINE I bits(F v) { return _mm512_castps_si512(v); }
  static EFFKERN_INLINE I shift(I high, I low, int j) {
    EFFKERN_SHIFT(_mm512_alignr_epi32, high, low, j)
  }
  static EFFKERN_INLINE F load(const float* p, uint32_t mask) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  }
  static EFFKERN_INLINE F load(const Half* p, uint32_t mask) {
    F v;
    asm("vcvtph2ps %1, %0%{%2%}%{z%}"
        : "=v"(v)
        : "m"(*reinterpret_cast<const __m256i_u*>(p)), "Yk"(static_cast<__mmask16>(mask)));
    return v;
  }
  template <class T>
  static EFFKERN_INLINE I load_words(const T* p, uint32_t mask) {
    return _mm512_maskz_loadu_epi16(mask, p);
  }
  static EFFKERN_INLINE I select_words(I v, I index) { return _mm512_permutexvar_epi16(index, v); }
  // The 16-bit elements from j on, each as the upper half of a lane.
  static EFFKERN_INLINE I upper_words(I v, uint32_t j) {
    const VecU32 index = (VecU32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + j) << 16;
    return _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (I)index, v);
  }
  // Elements l + j and l + j + 1 in lane l.
  static EFFKERN_INLINE I word_pairs(I v, uint32_t j) {
    const VecU32 low = VecU32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + j;
    return _mm512_permutexvar_epi16((I)(low | (low + 1u) << 16), v);
  }
  static EFFKERN_INLINE F dot(F sum, F a, F b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static EFFKERN_INLINE void store_dots(BFloat16* p, uint32_t mask, F v) {
    const __m256i words = (__m256i)_mm512_cvtneps_pbh(v);
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), words);
  }
  // With a number for all lanes as an operand in memory, of which g++ 12 makes an instruction.
  static EFFKERN_INLINE F dot(F sum, const float* a, F b) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(b), "m"(*a));
    return sum;
  }
  static EFFKERN_INLINE I even_words(I v) { return _mm512_slli_epi32(v, 16); }
  static EFFKERN_INLINE I odd_words(I v) {
    return _mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
  }
  // The even and the odd elements of 2 L halves.
  static EFFKERN_INLINE void split(I halves, F* even, F* odd) {
    const VecU32 first = {0x20000,  0x60004,  0xa0008,  0xe000c,
                          0x120010, 0x160014, 0x1a0018, 0x1e001c};
    const VecU32 second = first + 0x10001u;
    const VecU32 index = __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18,
                                                 19, 20, 21, 22, 23);
    const I words = select_words(halves, (I)index);
    *even = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
    *odd = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1));
  }
  // Those of two vectors of floats.
  static EFFKERN_INLINE void split(F low, F high, F* even, F* odd) {
    const VecU32 index = VecU32{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    *even = _mm512_permutex2var_ps(low, (I)index, high);
    *odd = _mm512_permutex2var_ps(low, (I)(index + 1u), high);
  }
  static EFFKERN_INLINE Vec<float> vector(F v) { return (Vec<float>)v; }
  static EFFKERN_INLINE F lanes(Vec<float> v) { return (F)v; }
  static EFFKERN_INLINE void store(float* p, uint32_t mask, F v) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), v);
  }
  static EFFKERN_INLINE void store(Half* p, uint32_t mask, F v) {
    asm("vcvtps2ph $0, %1, %0%{%2%}"
        : "+m"(*reinterpret_cast<__m256i_u*>(p))
        : "v"(v), "Yk"(static_cast<__mmask16>(mask)));
  }
  static EFFKERN_INLINE void store(BFloat16* p, uint32_t mask, F v) {
    const __m256i words = (__m256i)narrow((Vec<float>)v, BFloat16{});
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), words);
  }
};
#undef EFFKERN_SHIFT

// V vectors of L output pixels, and whether what they meet reaches into one more vector of the
// image.
template <int Vectors, int Lanes, bool Next>
struct Strip {
  static constexpr int V = Vectors, L = Lanes;
  static constexpr bool kNext = Next;
};

// What the columns of a kernel with stride S meet in one row of an image, for a strip whose first
// column meets column `first` of the image with the first column of the kernel.
template <class T, int S, class Strip>
class RowWindow;

template <class T, class Strip>
class RowWindow<T, 1, Strip> {
  using P = Pixels<Strip::L>;

 public:
  static constexpr int kLoads = Strip::V + Strip::kNext, kStep = Strip::L;
  EFFKERN_INLINE void load(const T* p, const uint32_t* masks) {
#pragma GCC unroll 3
    for (int v = 0; v < Strip::V; ++v) x_[v] = P::bits(P::load(p + v * kStep, masks[v]));
    // Of the next vector 6 lanes at most are met.
    if constexpr (Strip::kNext) {
      x_[Strip::V] = P::widened(Pixels<8>::load(p + Strip::V * kStep, masks[Strip::V]));
    }
  }
  // The pixels that column j of the kernel meets.
  EFFKERN_INLINE typename P::F at(int v, int j) const {
    return P::floats(P::shift(v + 1 < kLoads ? x_[v + 1] : typename P::I{}, x_[v], j));
  }

 private:
  typename P::I x_[kLoads];
};

// 2 L elements of a bfloat16 row hold all that a vector meets.
template <class Strip>
class RowWindow<BFloat16, 1, Strip> {
  using P = Pixels<Strip::L>;

 public:
  static constexpr int kLoads = Strip::V, kStep = Strip::L;
  EFFKERN_INLINE void load(const BFloat16* p, const uint32_t* masks) {
#pragma GCC unroll 2
    for (int v = 0; v < kLoads; ++v) x_[v] = P::load_words(p + v * kStep, masks[v]);
  }
  EFFKERN_INLINE typename P::F at(int v, int j) const {
    return P::floats(P::upper_words(x_[v], static_cast<uint32_t>(j)));
  }
  // Those of columns j and j + 1, of which the first may be the last there is.
  template <int K>
  EFFKERN_INLINE typename P::F pair_at(int v, int j) const {
    if (j + 1 == K) return at(v, j);
    return P::floats(P::word_pairs(x_[v], static_cast<uint32_t>(j)));
  }

 private:
  typename P::I x_[kLoads];
};

// With stride 2 the even columns of the kernel meet the even pixels from the first on, the odd ones
// the odd.
template <class T, class Strip>
class RowWindow<T, 2, Strip> {
  using P = Pixels<Strip::L>;
  static constexpr int kPairs = Strip::V + Strip::kNext;
  static constexpr bool kTwoLoads = sizeof(T) == sizeof(float);

 public:
  static constexpr int kLoads = kTwoLoads ? 2 * kPairs : kPairs,
                       kStep = 2 * Strip::L * kPairs / kLoads;
  EFFKERN_INLINE void load(const T* p, const uint32_t* masks) {
#pragma GCC unroll 3
    for (int v = 0; v < kPairs; ++v, p += 2 * Strip::L) {
      typename P::F even, odd;
      if constexpr (kTwoLoads) {
        P::split(P::load(p, masks[2 * v]), P::load(p + kStep, masks[2 * v + 1]), &even, &odd);
      } else {
        P::split(P::load_words(p, masks[v]), &even, &odd);
      }
      x_[v][0] = P::bits(even), x_[v][1] = P::bits(odd);
    }
  }
  EFFKERN_INLINE typename P::F at(int v, int j) const {
    const typename P::I next = v + 1 < kPairs ? x_[v + 1][j % 2] : typename P::I{};
    return P::floats(P::shift(next, x_[v][j % 2], j / 2));
  }

 private:
  typename P::I x_[kPairs][2];
};

template <class Strip>
class RowWindow<BFloat16, 2, Strip> {
  using P = Pixels<Strip::L>;

 public:
  static constexpr int kLoads = Strip::V + Strip::kNext, kStep = 2 * Strip::L;
  EFFKERN_INLINE void load(const BFloat16* p, const uint32_t* masks) {
#pragma GCC unroll 3
    for (int v = 0; v < kLoads; ++v) x_[v] = P::load_words(p + v * kStep, masks[v]);
  }
  EFFKERN_INLINE typename P::F at(int v, int j) const {
    return P::floats(j % 2 ? P::odd_words(pairs(v, j)) : P::even_words(pairs(v, j)));
  }
  template <int K>
  EFFKERN_INLINE typename P::F pair_at(int v, int j) const {
    return j + 1 == K ? at(v, j) : P::floats(pairs(v, j));
  }

 private:
  EFFKERN_INLINE typename P::I pairs(int v, int j) const {
    return P::shift(v + 1 < kLoads ? x_[v + 1] : typename P::I{}, x_[v], j / 2);
  }
  typename P::I x_[kLoads];
};

}  // namespace EFFKERN_ISA
}  // namespace effkern
