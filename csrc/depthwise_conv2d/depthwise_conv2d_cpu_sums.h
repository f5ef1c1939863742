// Sums of the output, and of its squares: a block is read again right after it is stored, out of
// the cache, so that the sums are those of the rounded numbers. Chains of additions in the
// accumulation type are short; everything beyond is added in double, always in the same order.
// Included after the pack header, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Additions in the accumulation type before the sum moves on to double.
constexpr int64_t kSumChain = 16;

EFFKERN_INLINE void add_wide(double* sums, Vec<double> v) { store_acc(sums, load_acc(sums) + v); }
EFFKERN_INLINE void add_wide(double* sums, Vec<float> v) {
  typedef float HalfVector __attribute__((vector_size(EFFKERN_VECTOR / 2)));
  float lanes[kLanes<float>];
  store_acc(lanes, v);
#pragma GCC unroll 2
  for (int i = 0; i < kLanes<float>; i += kLanes<double>) {
    HalfVector half;
    memcpy(&half, lanes + i, sizeof half);
    add_wide(sums + i, __builtin_convertvector(half, Vec<double>));
  }
}

// Sums of V adjacent vectors, lane by lane.
template <class T, int V, bool kSquares>
struct LaneSums {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;
  double sum[V * L] = {}, squares[V * L] = {};

  // `rows` rows of `count` pixels, `pitch` and `step` elements apart, of which the last vector has
  // `last` elements. Chains go on from one short row to the next.
  template <bool kPart>
  void add(const T* block, int64_t rows, int64_t pitch, int64_t count, int64_t step, int64_t last) {
    static_assert(V == 1 || !kPart);
    Vec<A> s[V] = {}, q[V] = {};
    int64_t chain = 0;
    for (int64_t r = 0; r < rows; ++r, block += pitch) {
      const T* p = block;
      for (int64_t left = count; left > 0;) {
        const int64_t now = min64(left, kSumChain - chain);
        for (int64_t i = 0; i < now; ++i, p += step) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const Vec<A> x = kPart ? load_upto(p, last) : load(p + v * L);
            s[v] += x;
            if (kSquares) q[v] += x * x;
          }
        }
        left -= now;
        chain += now;
        if (chain == kSumChain) flush(s, q, &chain);
      }
      if (chain > 0 && count > kSumChain) flush(s, q, &chain);
    }
    if (chain > 0) flush(s, q, &chain);
  }

  void flush(Vec<A> (&s)[V], Vec<A> (&q)[V], int64_t* chain) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      add_wide(sum + v * L, s[v]);
      if (kSquares) add_wide(squares + v * L, q[v]);
      s[v] = q[v] = Vec<A>{};
    }
    *chain = 0;
  }

  // The lanes of a row of pixels, in pairs.
  static double total(double (&lanes)[V * L]) {
#pragma GCC unroll 8
    for (int half = V * L / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
};

// The partial sums of a unit of work: of some channels in a block of rows.
template <class T>
class OutputSums {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;

 public:
  explicit OutputSums(const StencilTask& task) : t_(task) {}

  // `count` channels of block `block` of image n, before any of their sums are added.
  void start(int64_t n, int64_t block, int64_t channel, int64_t count) {
    if (!t_.sums) return;
    const int64_t blocks = ceil_div(t_.rows.out_size, t_.plan.block_rows);
    n_ = n;
    channel_ = channel;
    count_ = count;
    slot_ = t_.sums + (n * blocks + block) * t_.moments * t_.channels + channel;
    for (int64_t m = 0; m < t_.moments; ++m) {
      for (int64_t c = 0; c < count; ++c) slot_[m * t_.channels + c] = 0;
    }
  }

  // Rows and columns of these channels that have been stored.
  void add(int64_t row, int64_t rows, int64_t col, int64_t cols) {
    if (!t_.sums) return;
    rows = min64(rows, t_.rows.out_size - row);
    cols = min64(cols, t_.cols.out_size - col);
    t_.moments == 2 ? add_block<true>(row, rows, col, cols)
                    : add_block<false>(row, rows, col, cols);
  }

 private:
  template <bool kSquares>
  __attribute__((noinline)) void add_block(int64_t row, int64_t rows, int64_t col, int64_t cols) {
    const Strides4& s = t_.output_strides;
    const T* block =
        static_cast<const T*>(t_.output) + n_ * s.n + channel_ * s.c + row * s.h + col * s.w;
    if (s.c == 1) {
      int64_t c = 0;
      for (; c + 4 * L <= count_; c += 4 * L) add_channels<4, kSquares>(block, rows, cols, c);
      for (; c < count_; c += L) add_channels<1, kSquares>(block, rows, cols, c);
      return;
    }
    // Rows without gaps are one long row.
    if (s.h == cols) cols *= rows, rows = 1;
    for (int64_t c = 0; c < count_; ++c) add_plane<kSquares>(block + c * s.c, rows, cols, c);
  }

  template <int V, bool kSquares>
  void add_channels(const T* block, int64_t rows, int64_t cols, int64_t c) {
    const int64_t last = min64(L, count_ - c);
    const Strides4& strides = t_.output_strides;
    LaneSums<T, V, kSquares> lanes;
    if (V > 1 || last == L) {
      lanes.template add<false>(block + c, rows, strides.h, cols, strides.w, L);
    } else if constexpr (V == 1) {
      lanes.template add<true>(block + c, rows, strides.h, cols, strides.w, last);
    }
    for (int64_t i = 0; i < (V == 1 ? last : V * L); ++i) {
      slot_[c + i] += lanes.sum[i];
      if (kSquares) slot_[t_.channels + c + i] += lanes.squares[i];
    }
  }

  template <bool kSquares>
  void add_plane(const T* plane, int64_t rows, int64_t cols, int64_t c) {
    // Of few vectors the sums of the lanes would cost more than a single chain.
    const int64_t whole = cols >= 16 * L ? cols / (4 * L) : 0;
    if (whole > 0) {
      LaneSums<T, 4, kSquares> lanes;
      lanes.template add<false>(plane, rows, t_.output_strides.h, whole, 4 * L, L);
      add_total(lanes, c);
      if (cols == whole * 4 * L) return;
      plane += whole * 4 * L;
      cols -= whole * 4 * L;
    }
    LaneSums<T, 1, kSquares> lanes;
    const int64_t pitch = t_.output_strides.h;
    lanes.template add<false>(plane, rows, pitch, cols / L, L, L);
    lanes.template add<true>(plane + cols / L * L, rows, pitch, cols % L > 0, L, cols % L);
    add_total(lanes, c);
  }

  template <int V, bool kSquares>
  void add_total(LaneSums<T, V, kSquares>& lanes, int64_t c) {
    slot_[c] += lanes.total(lanes.sum);
    if (kSquares) slot_[t_.channels + c] += lanes.total(lanes.squares);
  }

  const StencilTask& t_;
  int64_t n_ = 0, channel_ = 0, count_ = 0;
  double* slot_ = nullptr;
};

}  // namespace EFFKERN_ISA
}  // namespace effkern
