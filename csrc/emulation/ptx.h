// The emulated twins of common/ptx.cuh, with the same names and meaning.
#pragma once

#include "common/vec.cuh"
#include "emulation/counters.h"

namespace effkern::emulation {

// Rows that lanes give the addresses of, exchanged so that each lane has those that it works on:
// the result's u64[2 m] and, transposed, u64[2 m + 1] for matrix m.
const Registers& exchange_rows(const void* row, int matrices, bool transposed, Access access,
                               const char* name, Site site);

void start_copy(const Copy& copy);

// d = a b + c for a 16 x k and b k x 8 in row-major order over the warp; in: a, b, c by register.
enum class MmaShape { kK16, kK8, kK8Tf32 };
const Registers& multiply(MmaShape shape, Site site);

template <typename T>
float element(uint32_t pair, int which) {
  return widen(bit_cast<T>(uint16_t(which ? pair >> 16 : pair)));
}

}  // namespace effkern::emulation

namespace effkern::ptx {

// Words is uint2 or uint4.
template <typename Words>
void store_global(void* address, Words words EFFKERN_SITE) {
  static_assert(sizeof(Words) == 8 || sizeof(Words) == 16);
  emulation::global_access(address, sizeof(Words), emulation::Access::kWrite, site, true);
  std::memcpy(address, &words, sizeof(Words));
}

template <int kBytes>
void cp_async(void* shared, const void* global, bool valid = true EFFKERN_SITE) {
  using namespace emulation;
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  global_access(global, kBytes, Access::kRead, site, valid);
  Copy copy{shared, {}, kBytes, current->copy_group, site};
  if (valid) std::memcpy(copy.data, global, kBytes);
  shared_copy_started(shared, kBytes, site);
  // What the destination holds until the copy lands is undefined.
  std::memset(shared, kPoison, kBytes);
  start_copy(copy);
}

inline void cp_async_commit() { ++emulation::current->copy_group; }

template <int kPending>
void cp_async_wait() {
  emulation::land_copies(emulation::current->copy_group - 1 - kPending);
}

inline void cp_async_wait_all() {
  ++emulation::current->copy_group;
  emulation::land_copies(emulation::current->copy_group - 1);
}

template <int kMatrices, bool kTrans = false>
void ldmatrix(uint32_t (&r)[kMatrices], const void* row EFFKERN_SITE) {
  using namespace emulation;
  const Registers& rows = exchange_rows(row, kMatrices, kTrans, Access::kRead, "ldmatrix", site);
  const int lane = current->lane;
  for (int m = 0; m < kMatrices; ++m) {
    uint16_t values[2];
    for (int i = 0; i < 2; ++i) {
      const int column = kTrans ? lane / 4 : 2 * (lane % 4) + i;
      const auto* from = reinterpret_cast<const uint16_t*>(rows.u64[2 * m + (kTrans ? i : 0)]);
      shared_order(from + column, Access::kRead, site);
      values[i] = from[column];
    }
    r[m] = values[0] | uint32_t(values[1]) << 16;
  }
}

template <int kMatrices, bool kTrans = false>
void stmatrix(void* row, const uint32_t (&r)[kMatrices] EFFKERN_SITE) {
  using namespace emulation;
  const Registers& rows = exchange_rows(row, kMatrices, kTrans, Access::kWrite, "stmatrix", site);
  const int lane = current->lane;
  for (int m = 0; m < kMatrices; ++m) {
    for (int i = 0; i < 2; ++i) {
      const int column = kTrans ? lane / 4 : 2 * (lane % 4) + i;
      auto* to = reinterpret_cast<uint16_t*>(rows.u64[2 * m + (kTrans ? i : 0)]);
      // Transposed, two lanes write the halves of one word.
      if (!kTrans) shared_order(to + column, Access::kWrite, site);
      to[column] = uint16_t(i ? r[m] >> 16 : r[m]);
    }
  }
}

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] EFFKERN_SITE) {
  using namespace emulation;
  float* in = current->in.f32;
  for (int i = 0; i < 8; ++i) in[i] = element<T>(a[i / 2], i % 2);
  for (int i = 0; i < 4; ++i) in[8 + i] = element<T>(b[i / 2], i % 2), in[12 + i] = d[i];
  const Registers& out = multiply(MmaShape::kK16, site);
  for (int i = 0; i < 4; ++i) d[i] = out.f32[i];
}

template <typename T>
void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b EFFKERN_SITE) {
  using namespace emulation;
  float* in = current->in.f32;
  for (int i = 0; i < 4; ++i) in[i] = element<T>(a[i / 2], i % 2), in[12 + i] = d[i];
  for (int i = 0; i < 2; ++i) in[8 + i] = element<T>(b, i);
  const Registers& out = multiply(MmaShape::kK8, site);
  for (int i = 0; i < 4; ++i) d[i] = out.f32[i];
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                             const uint32_t (&b)[2] EFFKERN_SITE) {
  using namespace emulation;
  // The lower 13 bits of the operands are not looked at.
  constexpr uint32_t kTf32 = 0xffffe000u;
  float* in = current->in.f32;
  for (int i = 0; i < 4; ++i) in[i] = bit_cast<float>(a[i] & kTf32), in[12 + i] = d[i];
  for (int i = 0; i < 2; ++i) in[8 + i] = bit_cast<float>(b[i] & kTf32);
  const Registers& out = multiply(MmaShape::kK8Tf32, site);
  for (int i = 0; i < 4; ++i) d[i] = out.f32[i];
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = emulation::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fffffffu;
  if (std::isinf(value)) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

inline float without_subnormal(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.f, x) : x;
}
inline void keep(float&) {}
inline float exp2_approx(float x) { return without_subnormal(std::exp2(without_subnormal(x))); }
inline float reciprocal_approx(float x) {
  x = without_subnormal(x);
  // Division by zero is no fault here.
  return x == 0.f ? std::copysign(INFINITY, x) : without_subnormal(1.f / x);
}

inline void named_barrier_sync(int barrier, int threads EFFKERN_SITE) {
  emulation::barrier_sync(barrier, threads, false, "bar.sync", site);
}

inline void named_barrier_arrive(int barrier, int threads EFFKERN_SITE) {
  emulation::barrier_arrive(barrier, threads, "bar.arrive", site);
}

inline unsigned cluster_rank() { return unsigned(emulation::current->block->rank); }
inline void cluster_arrive(EFFKERN_EMULATED_CALLER) { emulation::cluster_arrive(site); }
inline void cluster_wait(EFFKERN_EMULATED_CALLER) { emulation::cluster_wait(site); }

template <typename T>
T* cluster_shared(T* pointer, unsigned rank EFFKERN_SITE) {
  return static_cast<T*>(emulation::cluster_shared(pointer, rank, site));
}

}  // namespace effkern::ptx
