// Activation functions and their derivatives on registers, equal to torch.nn.functional's, NaN
// included. The kind is uniform over a launch: the switch costs one branch per call.
//
// Storage is the type the result is rounded to. For 16-bit storage, approximations whose error is
// far below its rounding unit halve the code and its time.
#pragma once

#include "common/vec.cuh"
#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {
namespace detail {

template <typename Storage>
__device__ __forceinline__ float exponential(float x) {
  return sizeof(Storage) == 2 ? __expf(x) : expf(x);
}
template <typename Storage>
__device__ __forceinline__ double exponential(double x) {
  return exp(x);
}

// sigmoid(x) and sigmoid(-x), each without cancellation. The exponential never overflows and the
// divisor is in [1, 2], where the fast division is within 2 ulp.
template <typename A>
struct Gate {
  A open, closed;
};
template <typename Storage>
__device__ __forceinline__ Gate<float> gate(float x) {
  const float e = exponential<Storage>(-fabsf(x)), inverse = __fdividef(1.f, 1.f + e);
  return {x < 0.f ? e * inverse : inverse, x < 0.f ? inverse : e * inverse};
}
template <typename Storage>
__device__ __forceinline__ Gate<double> gate(double x) {
  const double e = exp(-fabs(x));
  return {(x < 0. ? e : 1.) / (1. + e), (x < 0. ? 1. : e) / (1. + e)};
}

// GELU's 0.5 (1 + tanh(u)) is sigmoid(2u), so that SiLU and GELU (tanh) are both x sigmoid(z(x)),
// with z(x) = x or x (kTanhLinear + kTanhCubic x^2). The choice is made on z: 0 x^2 would be NaN at
// infinity.
template <typename A>
constexpr A kTanhLinear = A(1.5957691216057308);
template <typename A>
constexpr A kTanhCubic = A(0.07135481627260025);

template <typename Storage, typename A>
__device__ __forceinline__ A normal_pdf(A x) {
  return A(0.39894228040143268) * exponential<Storage>(A(-0.5) * x * x);
}

template <typename Storage>
__device__ __forceinline__ double normal_cdf(double x) {
  return 0.5 * (1. + erf(x * 0.70710678118654752));
}
template <typename Storage>
__device__ __forceinline__ float normal_cdf(float x) {
  if constexpr (sizeof(Storage) == 2) {
    // Abramowitz and Stegun 7.1.26, to 0.75e-7 absolute; the lower tail comes without cancellation.
    const float t = __fdividef(1.f, 1.f + 0.23164189f * fabsf(x));
    const float p =
        t * (0.1274147960f +
             t * (-0.1422483683f + t * (0.7107068706f + t * (-0.7265760136f + t * 0.5307027146f))));
    const float tail = p * __expf(-0.5f * x * x);
    return x < 0.f ? tail : 1.f - tail;
  } else {
    return 0.5f * (1.f + erff(x * 0.70710678118654752f));
  }
}

// values[i] = function(values[i]) for a function of many instructions: a loop over groups of four,
// which moves the array up by four registers each time. Moves cost less than the time and space of
// N copies.
template <int N, typename A, typename Function>
__device__ __forceinline__ void apply(A (&values)[N], Function function) {
  constexpr int kGroup = N < 4 ? N : 4, kRotated = N / kGroup * kGroup;
#pragma unroll 1
  for (int i = 0; i < kRotated; i += kGroup) {
    A done[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) done[j] = function(values[j]);
#pragma unroll
    for (int j = 0; j < kRotated - kGroup; ++j) values[j] = values[j + kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) values[kRotated - kGroup + j] = done[j];
  }
#pragma unroll
  for (int i = kRotated; i < N; ++i) values[i] = function(values[i]);
}

}  // namespace detail

// values[i] = activation(values[i]).
template <typename Storage, int N, typename A>
__device__ __forceinline__ void activate(Activation activation, A (&values)[N]) {
  using namespace detail;
  switch (activation) {
    case Activation::kNone:
      break;
    case Activation::kReLU:
    case Activation::kReLU6: {
      const A high = activation == Activation::kReLU6 ? A(6) : A(INFINITY);
#pragma unroll
      for (A& x : values) x = x < A(0) ? A(0) : x > high ? high : x;
      break;
    }
    case Activation::kHardswish:
#pragma unroll
      for (A& x : values) {
        const A y = x + A(3);
        x *= (y < A(0) ? A(0) : y > A(6) ? A(6) : y) * A(1. / 6.);
      }
      break;
    case Activation::kGELU:
      apply(values, [](A x) { return x * normal_cdf<Storage>(x); });
      break;
    case Activation::kSiLU:
    case Activation::kGELUTanh: {
      const bool silu = activation == Activation::kSiLU;
      apply(values, [silu](A x) {
        return x * gate<Storage>(silu ? x : x * (kTanhLinear<A> + kTanhCubic<A> * x * x)).open;
      });
      break;
    }
  }
}

// values[i] = the activation's derivative at values[i], with torch's choice where there is none.
template <typename Storage, int N, typename A>
__device__ __forceinline__ void differentiate(Activation activation, A (&values)[N]) {
  using namespace detail;
  switch (activation) {
    case Activation::kNone:
#pragma unroll
      for (A& x : values) x = A(1);
      break;
    case Activation::kReLU:
    case Activation::kReLU6: {
      const bool six = activation == Activation::kReLU6;
#pragma unroll
      for (A& x : values) x = x <= A(0) || (six && x >= A(6)) ? A(0) : A(1);
      break;
    }
    case Activation::kHardswish:
#pragma unroll
      for (A& x : values) {
        x = x <= A(-3) ? A(0) : x < A(3) ? x * A(1. / 3.) + A(0.5) : A(1);
      }
      break;
    case Activation::kGELU:
      apply(values, [](A x) { return normal_cdf<Storage>(x) + x * normal_pdf<Storage>(x); });
      break;
    case Activation::kSiLU:
    case Activation::kGELUTanh: {
      const bool silu = activation == Activation::kSiLU;
      apply(values, [silu](A x) {
        const auto [open, closed] =
            gate<Storage>(silu ? x : x * (kTanhLinear<A> + kTanhCubic<A> * x * x));
        const A slope = silu ? A(1) : kTanhLinear<A> + A(3) * kTanhCubic<A> * x * x;
        return open + x * (open * closed) * slope;
      });
      break;
    }
  }
}

}  // namespace effkern
