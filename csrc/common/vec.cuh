// Memory access of N neighbouring elements as one instruction, and the conversion between storage
// types and the type that arithmetic uses (float for 16-bit storage). Every access of a kernel to
// global or shared memory goes through these functions, or through those of ptx.cuh: that is where
// the emulator checks and counts.
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
    if constexpr (std::is_same_v<T, __nv_bfloat16> && N % 2 == 0) {
      // By the bits: nvcc takes two instructions for an upper half.
      unsigned pairs[N / 2];
      memcpy(static_cast<void*>(pairs), &bits, sizeof(bits));
#pragma unroll
      for (int i = 0; i < N; i += 2) {
        values[i] = __uint_as_float(pairs[i / 2] << 16);
        values[i + 1] = __uint_as_float(pairs[i / 2] & 0xffff0000u);
      }
      return;
    }
    T elements[N];
    memcpy(static_cast<void*>(elements), &bits, sizeof(bits));
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = widen(elements[i]);
  }
};

// Loads through the read-only path: the tensor must not be written by the same kernel. `address` is
// aligned to the N elements.
template <int N, typename T>
__device__ __forceinline__ Packed<T, N> load(const T* address EFFKERN_SITE) {
  EFFKERN_GLOBAL_ACCESS(address, N * sizeof(T), kRead);
  return {__ldg(reinterpret_cast<const typename Packed<T, N>::Bits*>(address))};
}

// Zeros where `valid` is false; nothing is read then.
template <int N, typename T>
__device__ __forceinline__ Packed<T, N> load_or_zero(bool valid, const T* address EFFKERN_SITE) {
  EFFKERN_GLOBAL_ACCESS_IF(valid, address, N * sizeof(T), kRead);
  if (!valid) return Packed<T, N>::zero();
  return {__ldg(reinterpret_cast<const typename Packed<T, N>::Bits*>(address))};
}

// `values` stay as they are where `valid` is false; nothing is read then.
template <int N, typename T>
__device__ __forceinline__ void load_if(bool valid, const T* address,
                                        Packed<T, N>& values EFFKERN_SITE) {
  EFFKERN_GLOBAL_ACCESS_IF(valid, address, N * sizeof(T), kRead);
  if (valid) values = {__ldg(reinterpret_cast<const typename Packed<T, N>::Bits*>(address))};
}

template <typename T>
__device__ __forceinline__ Accumulate<T> load_scalar(const T* address EFFKERN_SITE) {
  Accumulate<T> value[1];
  load<1>(address EFFKERN_PASS_SITE).widen_to(value);
  return value[0];
}

// Rounds N values to nearest even. Two 16-bit values at a time are one conversion instruction.
template <int N, typename T>
__device__ __forceinline__ Packed<T, N> pack(const Accumulate<T>* values) {
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
  return {bits};
}

// Stores nothing where `valid` is false.
template <int N, typename T>
__device__ __forceinline__ void store_if(bool valid, T* address,
                                         const Accumulate<T>* values EFFKERN_SITE) {
  EFFKERN_GLOBAL_ACCESS_IF(valid, address, N * sizeof(T), kWrite);
  if (!valid) return;
  *reinterpret_cast<typename Packed<T, N>::Bits*>(address) = pack<N, T>(values).bits;
}

// N elements as they are.
template <int N, typename T>
__device__ __forceinline__ void store_packed_if(bool valid, T* address,
                                                Packed<T, N> values EFFKERN_SITE) {
  EFFKERN_GLOBAL_ACCESS_IF(valid, address, N * sizeof(T), kWrite);
  if (!valid) return;
  *reinterpret_cast<typename Packed<T, N>::Bits*>(address) = values.bits;
}

template <int N, typename T>
__device__ __forceinline__ void store(T* address, const Accumulate<T>* values EFFKERN_SITE) {
  store_if<N>(true, address, values EFFKERN_PASS_SITE);
}

// N elements as they are.
template <int N, typename T>
__device__ __forceinline__ void store_packed(T* address, Packed<T, N> values EFFKERN_SITE) {
  EFFKERN_GLOBAL_ACCESS(address, N * sizeof(T), kWrite);
  *reinterpret_cast<typename Packed<T, N>::Bits*>(address) = values.bits;
}

template <typename T>
__device__ __forceinline__ void store_scalar(T* address, Accumulate<T> value EFFKERN_SITE) {
  store<1>(address, &value EFFKERN_PASS_SITE);
}

__device__ __forceinline__ float load_shared(const float* address EFFKERN_SITE) {
  EFFKERN_SHARED_ACCESS(address, sizeof(float), kRead);
  return *address;
}

// Reads N floats in vectors of kWide, to which the address is aligned.
template <int N, int kWide>
__device__ __forceinline__ void load_shared(const float* address, float* values EFFKERN_SITE) {
  static_assert(N % kWide == 0 && (kWide == 2 || kWide == 4));
#pragma unroll
  for (int i = 0; i < N; i += kWide) {
    EFFKERN_SHARED_ACCESS(address + i, kWide * sizeof(float), kRead);
    if constexpr (kWide == 4) {
      const float4 four = *reinterpret_cast<const float4*>(address + i);
      values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
    } else {
      const float2 two = *reinterpret_cast<const float2*>(address + i);
      values[i] = two.x, values[i + 1] = two.y;
    }
  }
}

__device__ __forceinline__ void store_shared(float* address, float value EFFKERN_SITE) {
  EFFKERN_SHARED_ACCESS(address, sizeof(float), kWrite);
  *address = value;
}

// N elements as they are, to which the address is aligned.
template <int N, typename T>
__device__ __forceinline__ Packed<T, N> load_shared_packed(const T* address EFFKERN_SITE) {
  EFFKERN_SHARED_ACCESS(address, N * sizeof(T), kRead);
  return {*reinterpret_cast<const typename Packed<T, N>::Bits*>(address)};
}

template <int N, typename T>
__device__ __forceinline__ void store_shared_packed(T* address, Packed<T, N> values EFFKERN_SITE) {
  EFFKERN_SHARED_ACCESS(address, N * sizeof(T), kWrite);
  *reinterpret_cast<typename Packed<T, N>::Bits*>(address) = values.bits;
}

}  // namespace effkern
