// What kernels see of CUDA when g++ compiles them: keywords, built-in variables, intrinsics. The
// toolkit's own headers give the types and the conversions.
#pragma once

#ifdef __CUDACC__
#error "the emulator is compiled by a host compiler"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulation/device.h"

// Kernels are visible: their names in messages come from the dynamic symbol table.
#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __launch_bounds__(...)
// Compile errors: shared memory is declared with EFFKERN_SHARED or EFFKERN_DYNAMIC_SHARED, and
// there is no constant memory.
#define __shared__ EFFKERN_SHARED_is_how_shared_memory_is_declared
#undef __constant__
#define __constant__ the_emulator_has_no_constant_memory

#define threadIdx (::effkern::emulation::current->index)
#define blockIdx (::effkern::emulation::current->block->index)
#define blockDim (::effkern::emulation::running->shape.block)
#define gridDim (::effkern::emulation::running->shape.grid)
#define warpSize 32

#define EFFKERN_EMULATED_SITE \
  ::effkern::emulation::Site { __FILE__, __LINE__ }
#define __syncthreads() \
  ((void)::effkern::emulation::barrier_sync(0, 0, false, "__syncthreads", EFFKERN_EMULATED_SITE))
#define __syncthreads_count(predicate)                                              \
  ::effkern::emulation::barrier_sync(0, 0, (predicate) != 0, "__syncthreads_count", \
                                     EFFKERN_EMULATED_SITE)
#define __syncthreads_or(predicate) (__syncthreads_count(predicate) != 0)
#define __syncthreads_and(predicate) (__syncthreads_count(!(predicate)) == 0)

namespace effkern::emulation {

template <typename To, typename From>
To bit_cast(const From& value) {
  static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<From>);
  To result;
  std::memcpy(static_cast<void*>(&result), &value, sizeof result);
  return result;
}

enum class Shuffle { kIndex, kUp, kDown, kXor };
// The lane that `lane` reads from.
int shuffle_source(Shuffle kind, int lane, int operand, int width);
// Copies operands by in.u32[15]; a lane that takes no part gives all ones.
void shuffle_lanes(Thread* const* lanes, unsigned group);
void vote(Thread* const* lanes, unsigned group);
void nothing(Thread* const* lanes, unsigned group);
void reduce_add(Thread* const* lanes, unsigned group);
void reduce_min(Thread* const* lanes, unsigned group);
void reduce_max(Thread* const* lanes, unsigned group);

template <typename T>
T shuffle(unsigned mask, T value, Shuffle kind, int operand, int width, const char* name,
          Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    fault(site, "%s: width: wanted a power of two up to 32, got %d", name, width);
  }
  std::memcpy(current->in.bytes, static_cast<const void*>(&value), sizeof value);
  current->in.u32[15] = unsigned(shuffle_source(kind, current->lane, operand, width));
  const Registers& out = warp_collective(shuffle_lanes, mask, name, site);
  std::memcpy(static_cast<void*>(&value), out.bytes, sizeof value);
  return value;
}

inline unsigned ballot(unsigned mask, bool predicate, const char* name, Site site) {
  current->in.u32[0] = predicate;
  return warp_collective(vote, mask, name, site).u32[0];
}

template <typename T>
T reduce(WarpOperation operation, unsigned mask, T value, const char* name, Site site) {
  static_assert(sizeof(T) == 4);
  current->in.u32[0] = bit_cast<unsigned>(value);
  current->in.u32[1] = std::is_signed_v<T>;
  return bit_cast<T>(warp_collective(operation, mask, name, site).u32[0]);
}

// Read, combine, write; atomic for the sanitizers' sake, since one thread runs at a time.
template <typename T, typename Function>
T atomic_update(T* address, Function function) {
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t,
                                  std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  auto* word = reinterpret_cast<Word*>(address);
  Word old = __atomic_load_n(word, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(word, &old, bit_cast<Word>(function(bit_cast<T>(old))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  maybe_yield();
  return bit_cast<T>(old);
}

}  // namespace effkern::emulation

#define EFFKERN_EMULATED_CALLER ::effkern::emulation::Site site = ::effkern::emulation::Site::here()

inline void __syncwarp(unsigned mask = 0xffffffffu, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  warp_collective(nothing, mask, "__syncwarp", site, false, true);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return shuffle(mask, value, Shuffle::kIndex, lane, width, "__shfl_sync", site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return shuffle(mask, value, Shuffle::kUp, int(delta), width, "__shfl_up_sync", site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return shuffle(mask, value, Shuffle::kDown, int(delta), width, "__shfl_down_sync", site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return shuffle(mask, value, Shuffle::kXor, lanes, width, "__shfl_xor_sync", site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EFFKERN_EMULATED_CALLER) {
  return effkern::emulation::ballot(mask, predicate != 0, "__ballot_sync", site);
}
inline int __any_sync(unsigned mask, int predicate, EFFKERN_EMULATED_CALLER) {
  return effkern::emulation::ballot(mask, predicate != 0, "__any_sync", site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EFFKERN_EMULATED_CALLER) {
  return effkern::emulation::ballot(mask, predicate == 0, "__all_sync", site) == 0;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return reduce(reduce_add, mask, value, "__reduce_add_sync", site);
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return reduce(reduce_min, mask, value, "__reduce_min_sync", site);
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, EFFKERN_EMULATED_CALLER) {
  using namespace effkern::emulation;
  return reduce(reduce_max, mask, value, "__reduce_max_sync", site);
}

template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
  return effkern::emulation::atomic_update(address, [=](T old) { return T(old + value); });
}
template <typename T>
T atomicMin(T* address, std::common_type_t<T> value) {
  return effkern::emulation::atomic_update(address,
                                           [=](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicMax(T* address, std::common_type_t<T> value) {
  return effkern::emulation::atomic_update(address,
                                           [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicExch(T* address, std::common_type_t<T> value) {
  return effkern::emulation::atomic_update(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return effkern::emulation::atomic_update(address,
                                           [=](T old) { return old == expected ? value : old; });
}

// One thread runs at a time: memory is always in order.
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

using std::max;
using std::min;
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline unsigned __float_as_uint(float x) { return effkern::emulation::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return effkern::emulation::bit_cast<float>(x); }
