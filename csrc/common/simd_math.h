// Vectorised exp and erf, and the activations of the epilogues with their derivatives.
// Included after simd.h, once per instruction set.
#include <math.h>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {
namespace EFFKERN_ISA {

// exp by 2^n * p(r), |r| <= ln(2)/2, with the Cephes polynomial: below 2 ulp, checked in the tests.
EFFKERN_INLINE Vec<float> vexp(Vec<float> x) {
  typedef Vector<float>::mask Int;
  const Vec<float> lo = splat(-87.3365f), hi = splat(88.7228f);
  const Vec<float> c = clamp<float>(x, lo, hi);
  // Adding 1.5 * 2^23 rounds to an integer in the low bits.
  const Vec<float> magic = splat(12582912.0f);
  const Vec<float> shifted = c * 1.44269504088896341f + magic;
  const Vec<float> n = shifted - magic;
  Vec<float> r = c - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // Two steps, since 2^128 itself is no float.
  const Int e = reinterpret_cast<Int>(shifted) - reinterpret_cast<Int>(magic);
  const Int half = e >> 1;
  const Vec<float> a = reinterpret_cast<Vec<float>>((half + 127) << 23);
  const Vec<float> b = reinterpret_cast<Vec<float>>((e - half + 127) << 23);
  Vec<float> y = p * a * b;
  y = x < lo ? splat(0.0f) : y;
  y = x > hi ? splat(__builtin_inff()) : y;
  return x != x ? x : y;
}

// Rational minimax approximation on [-4, 4], as in Eigen and XLA.
EFFKERN_INLINE Vec<float> verf(Vec<float> x) {
  const Vec<float> c = clamp<float>(x, splat(-4.0f), splat(4.0f));
  const Vec<float> z = c * c;
  Vec<float> p = splat(-2.72614225801306e-10f);
  p = p * z + 2.77068142495902e-08f;
  p = p * z + -2.10102402082508e-06f;
  p = p * z + -5.69250639462346e-05f;
  p = p * z + -7.34990630326855e-04f;
  p = p * z + -2.95459980854025e-03f;
  p = p * z + -1.60960333262415e-02f;
  Vec<float> q = splat(-1.45660718464996e-05f);
  q = q * z + -2.13374055278905e-04f;
  q = q * z + -1.68282697438203e-03f;
  q = q * z + -7.37332916720468e-03f;
  q = q * z + -1.42647390514189e-02f;
  return c * p / q;
}

EFFKERN_INLINE Vec<double> vexp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = ::exp(x[i]);
  return x;
}
EFFKERN_INLINE Vec<double> verf(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = ::erf(x[i]);
  return x;
}

template <class A>
EFFKERN_INLINE Vec<A> vsigmoid(Vec<A> x) {
  return A(1) / (A(1) + vexp(-x));
}

// x * sigmoid(x), with an exp(-x) that has no denormals and no NaN of its own.
EFFKERN_INLINE Vec<float> vsilu(Vec<float> x) {
  typedef Vector<float>::mask Int;
  // From there on 1 + exp(-x) is 1.
  const Vec<float> least = splat(-86.6f);
  const Vec<float> c = at_least<float>(-x, least);
  const Vec<float> magic = splat(12582912.0f);
  const Vec<float> shifted = c * 1.44269504088896341f + magic;
  const Vec<float> n = shifted - magic;
  Vec<float> r = c - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  // The low bits of `shifted` are n; what the shift leaves of the others is nothing.
  const Int bits = reinterpret_cast<Int>(p) + (reinterpret_cast<Int>(shifted) << 23);
  const Vec<float> e = reinterpret_cast<Vec<float>>(bits);
  return x / (1.0f + (c > splat(88.37f) ? splat(__builtin_inff()) : e));
}
EFFKERN_INLINE Vec<double> vsilu(Vec<double> x) { return x / (1.0 + vexp(-x)); }

constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kInvSqrt2Pi = 0.39894228040143267794;
constexpr double kGeluTanhScale = 0.79788456080286535588;
constexpr double kGeluTanhCubic = 0.044715;

// sigmoid(2 u) = (1 + tanh(u)) / 2 of the tanh form of GELU, and 1 minus it; neither cancels.
template <class A>
EFFKERN_INLINE void gelu_gate(Vec<A> x, Vec<A>* gate, Vec<A>* rest) {
  const Vec<A> u = A(2 * kGeluTanhScale) * (x + A(kGeluTanhCubic) * x * x * x);
  const Vec<A> e = vexp(u < splat(A(0)) ? u : -u);
  const Vec<A> larger = A(1) / (A(1) + e), smaller = e / (A(1) + e);
  *gate = u < splat(A(0)) ? smaller : larger;
  *rest = u < splat(A(0)) ? larger : smaller;
}

template <class A>
EFFKERN_INLINE Vec<A> activate(Vec<A> x, Activation activation) {
  const Vec<A> zero = splat(A(0)), six = splat(A(6));
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kReLU:
      return at_least<A>(x, zero);
    case Activation::kReLU6:
      return clamp<A>(x, zero, six);
    case Activation::kSiLU:
      return vsilu(x);
    case Activation::kGELU:
      return A(0.5) * x * (A(1) + verf(x * A(kSqrtHalf)));
    case Activation::kGELUTanh: {
      Vec<A> gate, rest;
      gelu_gate<A>(x, &gate, &rest);
      return x * gate;
    }
    case Activation::kHardswish:
      return x * clamp<A>(x + A(3), zero, six) / A(6);
  }
  return x;
}

// Calls body(function) with the activation as a function of a vector: the choice is made once.
template <class A, class Body>
EFFKERN_INLINE void with_activation(Activation activation, const Body& body) {
#define EFFKERN_CASE(name)   \
  case Activation::name:     \
    return body([](Vec<A> x) \
                    __attribute__((always_inline)) { return activate<A>(x, Activation::name); });
  switch (activation) {
    EFFKERN_CASE(kNone)
    EFFKERN_CASE(kReLU)
    EFFKERN_CASE(kReLU6)
    EFFKERN_CASE(kSiLU)
    EFFKERN_CASE(kGELU)
    EFFKERN_CASE(kGELUTanh)
    EFFKERN_CASE(kHardswish)
  }
#undef EFFKERN_CASE
}

// The derivative at the pre-activation x; at the corners, torch's choice.
template <class A>
EFFKERN_INLINE Vec<A> activation_grad(Vec<A> x, Activation activation) {
  const Vec<A> zero = splat(A(0)), one = splat(A(1));
  switch (activation) {
    case Activation::kNone:
      return one;
    case Activation::kReLU:
      return x > zero ? one : zero;
    case Activation::kReLU6: {
      const Vec<A> below = x < splat(A(6)) ? one : zero;
      return x > zero ? below : zero;
    }
    case Activation::kSiLU: {
      const Vec<A> s = vsigmoid<A>(x);
      return s * (A(1) + x * (A(1) - s));
    }
    case Activation::kGELU: {
      const Vec<A> cdf = A(0.5) * (A(1) + verf(x * A(kSqrtHalf)));
      return cdf + x * A(kInvSqrt2Pi) * vexp(x * x * A(-0.5));
    }
    case Activation::kGELUTanh: {
      Vec<A> gate, rest;
      gelu_gate<A>(x, &gate, &rest);
      const Vec<A> slope = A(2 * kGeluTanhScale) * (A(1) + A(3 * kGeluTanhCubic) * x * x);
      return gate + x * (gate * rest) * slope;
    }
    case Activation::kHardswish: {
      const Vec<A> middle = x / A(3) + A(0.5);
      const Vec<A> left = x < splat(A(-3)) ? zero : middle;
      return x > splat(A(3)) ? one : left;
    }
  }
  return one;
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
