// What the kernels of the weight gradient have in common: partial sums, one vector of lanes per tap
// and one more for the bias, and where they go. Splits are added in a fixed order.
// Included after the pack header, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Vectors that a register tile adds one after the other before it goes to memory: the rounding
// errors of a sum grow with the length of its chain, and two short chains lose less than a long
// one. Shorter where the lanes are channels of planes: torch sums along the pixels of those, in
// lanes.
constexpr int64_t kChainLength = 128, kPlanesChainLength = 32;

// A value that several multiply-adds use: loaded once, if a register is left beside `others`.
template <int kOthers>
EFFKERN_INLINE Vec<float> wgrad_operand(Vec<float> x) {
  return kOthers < (EFFKERN_VECTOR == 64 ? 32 : 16) ? in_register(x) : x;
}
template <int kOthers>
EFFKERN_INLINE Vec<double> wgrad_operand(Vec<double> x) {
  return x;
}

template <class T, bool kChannels>
class WeightGradOutput {
  using A = Acc<T>;
  static constexpr int L = kLanes<A>;

 public:
  explicit WeightGradOutput(const WeightGradTask& task) : t_(task), taps_(task.problem.taps()) {}

  // The sums of `lanes` channels, or, where lanes are pixels, of one; overwrites them.
  void write(A* partial, int64_t channel, int lanes, int64_t split) const {
    if constexpr (!kChannels) {
      sum_lanes(partial);
    }
    if constexpr (kChannels) {
      if (!t_.workspace && t_.grad_weight) {
        write_transposed(partial, channel, lanes);
        if (t_.grad_bias) {
          store_upto(static_cast<T*>(t_.grad_bias) + channel, load_acc(partial + taps_ * L), lanes);
        }
        return;
      }
    }
    for (int lane = 0; lane < lanes; ++lane) {
      const A* p = partial + lane;
      const int64_t o = channel + lane;
      if (t_.workspace) {
        A* out =
            static_cast<A*>(t_.workspace) + (split * t_.problem.out_channels + o) * (taps_ + 1);
        for (int64_t k = 0; k <= taps_; ++k) out[k] = p[k * L];
        continue;
      }
      if (t_.grad_weight) {
        T* out = static_cast<T*>(t_.grad_weight) + o * taps_;
        for (int64_t k = 0; k < taps_; ++k) from_acc(p[k * L], out + k);
      }
      if (t_.grad_bias) from_acc(p[taps_ * L], static_cast<T*>(t_.grad_bias) + o);
    }
  }

 private:
  // sums[k * L] = the sum of the lanes of vector k, for all taps and the bias.
  void sum_lanes(A* sums) const {
    for (int64_t k = 0; k <= taps_; k += L) {
      Vec<A> block[L];
      for (int64_t i = 0; i < L; ++i) {
        block[i] = k + i <= taps_ ? load_acc(sums + (k + i) * L) : Vec<A>{};
      }
      transpose(block);
      for (int i = 1; i < L; ++i) block[0] += block[i];
      for (int64_t i = 0; i < min64(L, taps_ + 1 - k); ++i) sums[(k + i) * L] = block[0][i];
    }
  }

  // Vectors of channels, one per tap, to rows of taps, one per channel.
  void write_transposed(const A* partial, int64_t channel, int lanes) const {
    T* out = static_cast<T*>(t_.grad_weight) + channel * taps_;
    for (int64_t k = 0; k < taps_; k += L) {
      Vec<A> block[L];
      const int64_t count = min64(L, taps_ - k);
      for (int64_t i = 0; i < L; ++i) {
        block[i] = i < count ? load_acc(partial + (k + i) * L) : Vec<A>{};
      }
      transpose(block);
      for (int lane = 0; lane < lanes; ++lane)
        store_upto(out + lane * taps_ + k, block[lane], count);
    }
  }

  const WeightGradTask& t_;
  int64_t taps_;
};

template <class T>
void reduce_splits(const WeightGradTask& task, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t taps = task.problem.taps(), channels = task.problem.out_channels;
  for (int64_t o = begin; o < end; ++o) {
    const A* p = static_cast<const A*>(task.workspace) + o * (taps + 1);
    for (int64_t k = 0; k <= taps; ++k) {
      A sum = 0;
      for (int s = 0; s < task.plan.splits; ++s) sum += p[s * channels * (taps + 1) + k];
      if (k < taps && task.grad_weight) {
        from_acc(sum, static_cast<T*>(task.grad_weight) + o * taps + k);
      }
      if (k == taps && task.grad_bias) from_acc(sum, static_cast<T*>(task.grad_bias) + o);
    }
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
