// LayerNorm of contiguous images, in place: a lane is a pixel, the loop runs over the planes. A
// strip of pixels stays in the cache for its three passes.
// Included after the pixels header, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Vectors of pixels of a strip.
constexpr int kStrip = 4;

template <class A>
struct PlanesArgs {
  int64_t channels, pixels;
  const A *weight, *bias;
  A eps;
};

// The first V vectors of `n` pixels of a plane.
template <class A, int V>
EFFKERN_INLINE void load_strip(const A* plane, int64_t n, Vec<A> (&v)[V]) {
  constexpr int L = kLanes<A>;
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) v[i] = V > 1 ? load_acc(plane + i * L) : load_upto(plane, n);
}

// V vectors of pixels, whole ones if V > 1, else `n` pixels.
template <class A, int V>
void normalize_strip(const PlanesArgs<A>& args, A* x, int64_t n, A* mean_out, A* rstd_out) {
  constexpr int L = kLanes<A>;
  const int64_t channels = args.channels, plane = args.pixels;
  const Vec<A> count = splat(static_cast<A>(channels)), eps = splat(args.eps);
  Vec<A> v[V], mean[V] = {}, rstd[V] = {};
  for (int64_t c = 0; c < channels; ++c) {
    load_strip<A, V>(x + c * plane, n, v);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) mean[i] += v[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) mean[i] /= count;
  for (int64_t c = 0; c < channels; ++c) {
    load_strip<A, V>(x + c * plane, n, v);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) rstd[i] += (v[i] - mean[i]) * (v[i] - mean[i]);
  }
  for (int i = 0; i < V; ++i) {
    const Vec<A> variance = rstd[i] / count + eps;
    for (int l = 0; l < L; ++l) rstd[i][l] = A(1) / root(static_cast<A>(variance[l]));
    store_upto(mean_out + i * L, mean[i], V > 1 ? L : n);
    store_upto(rstd_out + i * L, rstd[i], V > 1 ? L : n);
  }
  for (int64_t c = 0; c < channels; ++c) {
    load_strip<A, V>(x + c * plane, n, v);
    const Vec<A> weight = splat(args.weight[c]), bias = splat(args.bias[c]);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      store_upto(x + c * plane + i * L, (v[i] - mean[i]) * rstd[i] * weight + bias, V > 1 ? L : n);
    }
  }
}

// As group_gradients.
template <class A, int V>
void strip_gradients(const PlanesArgs<A>& args, A* x, const A* grad, int64_t n, const A* means,
                     const A* rstds, A* grad_weight, A* grad_bias) {
  constexpr int L = kLanes<A>;
  const int64_t channels = args.channels, plane = args.pixels;
  const Vec<A> count = splat(static_cast<A>(channels));
  Vec<A> v[V], dy[V], mean[V], rstd[V], sum_g[V] = {}, sum_gy[V] = {};
  load_strip<A, V>(means, n, mean);
  load_strip<A, V>(rstds, n, rstd);
  for (int64_t c = 0; c < channels; ++c) {
    load_strip<A, V>(x + c * plane, n, v);
    load_strip<A, V>(grad + c * plane, n, dy);
    const Vec<A> weight = splat(args.weight[c]);
    Vec<A> to_weight{}, to_bias{};
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      // Beyond the pixels the gradient is zero.
      const Vec<A> y = (v[i] - mean[i]) * rstd[i], g = dy[i] * weight;
      sum_g[i] += g;
      sum_gy[i] += g * y;
      to_weight += dy[i] * y;
      to_bias += dy[i];
    }
    grad_weight[c] += add_lanes<A>(to_weight);
    grad_bias[c] += add_lanes<A>(to_bias);
  }
  for (int64_t c = 0; c < channels; ++c) {
    load_strip<A, V>(x + c * plane, n, v);
    load_strip<A, V>(grad + c * plane, n, dy);
    const Vec<A> weight = splat(args.weight[c]);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      const Vec<A> y = (v[i] - mean[i]) * rstd[i], g = dy[i] * weight;
      store_upto(x + c * plane + i * L, rstd[i] * (g - sum_g[i] / count - y * (sum_gy[i] / count)),
                 V > 1 ? L : n);
    }
  }
}

// Calls body<V>(pixel, count) for the strips of pixels [begin, end).
template <class A, class Body>
void for_each_strip(int64_t begin, int64_t end, const Body& body) {
  constexpr int L = kLanes<A>;
  for (; begin + kStrip * L <= end; begin += kStrip * L) {
    body(begin, kStrip * L, static_cast<Vec<A>(*)[kStrip]>(nullptr));
  }
  for (; begin < end; begin += L) {
    body(begin, min64(L, end - begin), static_cast<Vec<A>(*)[1]>(nullptr));
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
