// LayerNorm of pixels whose channels are adjacent, four at a time: one alone would wait for its
// sums. The variance is that of the differences to the mean, which are taken again out of the
// cache: nothing cancels.
// Included after simd.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

constexpr int kPixels = 4;

EFFKERN_INLINE float root(float x) { return __builtin_sqrtf(x); }
EFFKERN_INLINE double root(double x) { return __builtin_sqrt(x); }

template <class A>
EFFKERN_INLINE A add_lanes(Vec<A> v) {
  A lanes[kLanes<A>];
  store_acc(lanes, v);
#pragma GCC unroll 8
  for (int half = kLanes<A> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The first n lanes, zeros beyond.
template <class A>
EFFKERN_INLINE Vec<A> first_lanes(Vec<A> v, int64_t n) {
  constexpr int L = kLanes<A>;
  if (n >= L) return v;
  A lanes[L];
  store_acc(lanes, v);
  for (int64_t i = n; i < L; ++i) lanes[i] = A(0);
  return load_acc(lanes);
}

// Calls body(first channel, channels, chain) for vectors of channels; sums have two chains.
template <class A, class Body>
EFFKERN_INLINE void for_each_vector(int64_t channels, const Body& body) {
  constexpr int L = kLanes<A>;
  int64_t c = 0;
  for (; c + 2 * L <= channels; c += 2 * L) {
    body(c, int64_t{L}, 0);
    body(c + L, int64_t{L}, 1);
  }
  for (; c < channels; c += L) body(c, min64(L, channels - c), 0);
}

template <class T>
struct PixelArgs {
  using A = Acc<T>;
  int64_t channels;
  const A *weight, *bias;
  A eps;
};

// P pixels of x to `out`, which may be x.
template <class T, int P>
void normalize_group(const PixelArgs<T>& args, const Acc<T>* x, T* out, Acc<T>* means,
                     Acc<T>* rstds) {
  using A = Acc<T>;
  const int64_t channels = args.channels;
  const A count = static_cast<A>(channels);
  Vec<A> sum[P][2] = {}, center[P], scale[P];
  for_each_vector<A>(channels, [&](int64_t c, int64_t n, int chain) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p][chain] += load_upto(x + p * channels + c, n);
  });
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    means[p] = add_lanes<A>(sum[p][0] + sum[p][1]) / count;
    center[p] = splat(means[p]);
    sum[p][0] = sum[p][1] = Vec<A>{};
  }
  for_each_vector<A>(channels, [&](int64_t c, int64_t n, int chain) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const Vec<A> d = first_lanes<A>(load_upto(x + p * channels + c, n) - center[p], n);
      sum[p][chain] += d * d;
    }
  });
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    rstds[p] = A(1) / root(add_lanes<A>(sum[p][0] + sum[p][1]) / count + args.eps);
    scale[p] = splat(rstds[p]);
  }
  for_each_vector<A>(channels, [&](int64_t c, int64_t n, int) __attribute__((always_inline)) {
    const Vec<A> weight = load_upto(args.weight + c, n), bias = load_upto(args.bias + c, n);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const Vec<A> y = (load_upto(x + p * channels + c, n) - center[p]) * scale[p];
      store_upto(out + p * channels + c, y * weight + bias, n);
    }
  });
}

// The gradient of P pixels of x to `out`, which may be x. With y = (x - mean) * rstd and g = grad *
// weight it is rstd * (g - mean(g) - y * mean(g * y)); grad * y and grad are added to grad_weight
// and grad_bias.
template <class T, int P>
void group_gradients(const PixelArgs<T>& args, const Acc<T>* x, const T* grad, T* out,
                     const Acc<T>* means, const Acc<T>* rstds, Acc<T>* grad_weight,
                     Acc<T>* grad_bias) {
  using A = Acc<T>;
  const int64_t channels = args.channels;
  const A count = static_cast<A>(channels);
  Vec<A> mean[P], rstd[P], sum_g[P] = {}, sum_gy[P] = {};
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) mean[p] = splat(means[p]), rstd[p] = splat(rstds[p]);
  for_each_vector<A>(channels, [&](int64_t c, int64_t n, int) __attribute__((always_inline)) {
    const Vec<A> weight = load_upto(args.weight + c, n);
    Vec<A> to_weight{}, to_bias{};
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      // Beyond the channels the gradient is zero.
      const Vec<A> dy = load_upto(grad + p * channels + c, n), g = dy * weight;
      const Vec<A> y = (load_upto(x + p * channels + c, n) - mean[p]) * rstd[p];
      to_weight += dy * y;
      to_bias += dy;
      sum_g[p] += g;
      sum_gy[p] += g * y;
    }
    store_upto(grad_weight + c, load_upto(grad_weight + c, n) + to_weight, n);
    store_upto(grad_bias + c, load_upto(grad_bias + c, n) + to_bias, n);
  });
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    sum_g[p] = splat(add_lanes<A>(sum_g[p]) / count);
    sum_gy[p] = splat(add_lanes<A>(sum_gy[p]) / count);
  }
  for_each_vector<A>(channels, [&](int64_t c, int64_t n, int) __attribute__((always_inline)) {
    const Vec<A> weight = load_upto(args.weight + c, n);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const Vec<A> g = load_upto(grad + p * channels + c, n) * weight;
      const Vec<A> y = (load_upto(x + p * channels + c, n) - mean[p]) * rstd[p];
      store_upto(out + p * channels + c, rstd[p] * (g - sum_g[p] - y * sum_gy[p]), n);
    }
  });
}

template <class T>
void normalize_pixels(const PixelArgs<T>& args, const Acc<T>* x, T* out, int64_t count,
                      Acc<T>* means, Acc<T>* rstds) {
  const int64_t channels = args.channels;
  int64_t p = 0;
  for (; p + kPixels <= count; p += kPixels) {
    normalize_group<T, kPixels>(args, x + p * channels, out + p * channels, means + p, rstds + p);
  }
  for (; p < count; ++p) {
    normalize_group<T, 1>(args, x + p * channels, out + p * channels, means + p, rstds + p);
  }
}

template <class T>
void pixel_gradients(const PixelArgs<T>& args, const Acc<T>* x, const T* grad, T* out,
                     int64_t count, const Acc<T>* means, const Acc<T>* rstds, Acc<T>* grad_weight,
                     Acc<T>* grad_bias) {
  const int64_t channels = args.channels;
  int64_t p = 0;
  for (; p + kPixels <= count; p += kPixels) {
    const int64_t at = p * channels;
    group_gradients<T, kPixels>(args, x + at, grad + at, out + at, means + p, rstds + p,
                                grad_weight, grad_bias);
  }
  for (; p < count; ++p) {
    const int64_t at = p * channels;
    group_gradients<T, 1>(args, x + at, grad + at, out + at, means + p, rstds + p, grad_weight,
                          grad_bias);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
