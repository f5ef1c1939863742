// Global memory access of N neighbouring elements as one instruction, and the conversion between
// storage types and the type that arithmetic uses (float for 16-bit storage). Every global access
// of a kernel goes through these functions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/launch.cuh"

namespace effkern {

template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

namespace detail {

template <int kBytes>
struct Bits;
template <>
struct Bits<16> {
  using Type = uint4;
};
template <>
struct Bits<8> {
  using Type = uint2;
};
template <>
struct Bits<4> {
  using Type = unsigned int;
};
template <>
struct Bits<2> {
  using Type = unsigned short;
};

}  // namespace detail

// N elements as they lie in memory, held in registers.
template <typename T, int N>
struct Packed {
  using Bits = typename detail::Bits<N * sizeof(T)>::Type;
  Bits bits;

  static __device__ __forceinline__ Packed zero() { return Packed{Bits{}}; }

  __device__ __forceinline__ void widen_to(Accumulate<T> (&values)[N]) const {
    T elements[N];
    memcpy(static_cast<void*>(elements), &bits, sizeof(bits));
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = widen(elements[i]);
  }
};

// Loads through the read-only path: the tensor must not be written by the same kernel. `address` is
// aligned to the N elements.
template <int N, typename T>
__device__ __forceinline__ Packed<T, N> load(const T* address) {
  return {__ldg(reinterpret_cast<const typename Packed<T, N>::Bits*>(address))};
}

template <typename T>
__device__ __forceinline__ Accumulate<T> load_scalar(const T* address) {
  Accumulate<T> value[1];
  load<1>(address).widen_to(value);
  return value[0];
}

// Rounds to nearest even. Two 16-bit values at a time are one conversion instruction.
template <int N, typename T>
__device__ __forceinline__ void store(T* address, const Accumulate<T>* values) {
  typename Packed<T, N>::Bits bits;
  if constexpr (std::is_same_v<T, __half> && N % 2 == 0) {
    __half2 pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs[i] = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
    memcpy(&bits, static_cast<const void*>(pairs), sizeof(bits));
  } else if constexpr (std::is_same_v<T, __nv_bfloat16> && N % 2 == 0) {
    __nv_bfloat162 pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    }
    memcpy(&bits, static_cast<const void*>(pairs), sizeof(bits));
  } else {
    T elements[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, __half>) {
        elements[i] = __float2half_rn(values[i]);
      } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        elements[i] = __float2bfloat16_rn(values[i]);
      } else {
        elements[i] = values[i];
      }
    }
    memcpy(&bits, static_cast<const void*>(elements), sizeof(bits));
  }
  *reinterpret_cast<typename Packed<T, N>::Bits*>(address) = bits;
}

template <typename T>
__device__ __forceinline__ void store_scalar(T* address, Accumulate<T> value) {
  store<1>(address, &value);
}

}  // namespace effkern
