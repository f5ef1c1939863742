// Activations of results of 16 bits, of approximations by single instructions.
#pragma once

#include "common/activation.cuh"
#include "common/ptx.cuh"

namespace effkern {

// SiLU in five instructions. 2^126 and more has 0 for a reciprocal.
__device__ __forceinline__ float silu_to_16_bits(float x) {
  return x * ptx::reciprocal_approx(1.f + ptx::exp2_approx(x * -1.4426950408889634f));
}

// values[i] = activation(values[i]), with what most blocks have outside of `activate`'s switch.
template <typename Storage, int N>
__device__ __forceinline__ void activate_to_16_bits(Activation activation, float (&values)[N]) {
  if (activation != Activation::kSiLU) return activate<Storage>(activation, values);
#pragma unroll
  for (float& x : values) x = silu_to_16_bits(x);
}

}  // namespace effkern
