// Every wrapper of common/ptx.cuh against values from its definition: on a GPU, compiled by nvcc,
// and on the emulator, compiled by a host compiler. Prints one line per wrapper.
//
//     nvcc -std=c++17 -arch=native -Icsrc csrc/emulation/runners/ptx_conformance.cu -o conformance
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "common/ptx.cuh"

#ifdef EFFKERN_EMULATION
#include "emulation/emulator.h"
#define EFFKERN_HAS_SM90 1
#elif defined(__CUDA_ARCH__)
#define EFFKERN_HAS_SM90 (__CUDA_ARCH__ >= 900)
#endif

namespace effkern::conformance {

constexpr int kWarp = 32;

// Memory that host and device share.
struct Words {
  uint32_t* data;
  explicit Words(int count) {
#ifdef EFFKERN_EMULATION
    data = new uint32_t[size_t(count)];
#else
    if (cudaMallocManaged(&data, size_t(count) * 4) != cudaSuccess) std::abort();
#endif
    for (int i = 0; i < count; ++i) data[i] = 0xffffffffu;
  }
  ~Words() {
#ifdef EFFKERN_EMULATION
    delete[] data;
#else
    cudaFree(data);
#endif
  }
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;
};

int failures = 0;

void report(const char* name, cudaError_t error, const uint32_t* got,
            const std::vector<uint32_t>& wanted) {
#ifndef EFFKERN_EMULATION
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
#endif
  if (error != cudaSuccess) {
    std::printf("FAILED %s: %s\n", name, cudaGetErrorString(error));
    ++failures;
    return;
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (got[i] == wanted[i]) continue;
    std::printf("FAILED %s: word %zu is %08x, wanted %08x\n", name, i, got[i], wanted[i]);
    ++failures;
    return;
  }
  std::printf("ok %s\n", name);
}

template <typename Vector>
__global__ void store_global_kernel(const uint32_t* in, uint32_t* out) {
  constexpr int kWords = sizeof(Vector) / 4;
  Vector words;
  memcpy(&words, in + threadIdx.x * kWords, sizeof words);
  ptx::store_global(out + threadIdx.x * kWords, words);
}

template <typename Vector>
void test_store_global(const char* name) {
  constexpr int kCount = kWarp * sizeof(Vector) / 4;
  Words in(kCount), out(kCount);
  std::vector<uint32_t> wanted;
  for (int i = 0; i < kCount; ++i) wanted.push_back(in.data[i] = 0x1000u + unsigned(i));
  const cudaError_t error = launch_kernel(store_global_kernel<Vector>, dim3(1), dim3(kWarp), 0,
                                          nullptr, in.data, out.data);
  report(name, error, out.data, wanted);
}

// Two groups of one copy per lane, every other one zero-filled.
template <int kBytes>
__global__ void cp_async_kernel(const uint32_t* in, uint32_t* out) {
  constexpr int kCopy = kBytes / 4;
  EFFKERN_SHARED(uint32_t, staged, [2 * kWarp * kCopy]);
  const int lane = threadIdx.x;
  for (int group = 0; group < 2; ++group) {
    const int at = (group * kWarp + lane) * kCopy;
    ptx::cp_async<kBytes>(staged + at, in + at, lane % 2 == 0);
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<1>();
  for (int i = 0; i < kCopy; ++i) out[lane * kCopy + i] = staged[lane * kCopy + i];
  ptx::cp_async_wait_all();
  for (int i = kWarp * kCopy; i < 2 * kWarp * kCopy; i += kWarp * kCopy) {
    for (int j = 0; j < kCopy; ++j) out[i + lane * kCopy + j] = staged[i + lane * kCopy + j];
  }
}

template <int kBytes>
void test_cp_async(const char* name) {
  constexpr int kCopy = kBytes / 4, kCount = 2 * kWarp * kCopy;
  Words in(kCount), out(kCount);
  std::vector<uint32_t> wanted;
  for (int i = 0; i < kCount; ++i) {
    in.data[i] = 0x1000u + unsigned(i);
    wanted.push_back(i / kCopy % 2 == 0 ? in.data[i] : 0);
  }
  const cudaError_t error =
      launch_kernel(cp_async_kernel<kBytes>, dim3(1), dim3(kWarp), 0, nullptr, in.data, out.data);
  report(name, error, out.data, wanted);
}

template <int kMatrices, bool kTrans>
__global__ void ldmatrix_kernel(uint32_t* out) {
  EFFKERN_SHARED(uint16_t, matrices, [4 * 64]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 4 * 64; i += kWarp) matrices[i] = uint16_t(i);
  __syncthreads();
  uint32_t r[kMatrices];
  ptx::ldmatrix<kMatrices, kTrans>(r, matrices + lane % (8 * kMatrices) * 8);
  for (int m = 0; m < kMatrices; ++m) out[lane * kMatrices + m] = r[m];
}

template <int kMatrices, bool kTrans>
__global__ void stmatrix_kernel(uint32_t* out) {
#if EFFKERN_HAS_SM90
  EFFKERN_SHARED(uint16_t, matrices, [kMatrices * 64]);
  const int lane = threadIdx.x;
  uint32_t r[kMatrices];
  for (int m = 0; m < kMatrices; ++m) r[m] = unsigned(2 * (m * kWarp + lane)) * 0x10001u + 0x10000u;
  ptx::stmatrix<kMatrices, kTrans>(matrices + lane % (8 * kMatrices) * 8, r);
  __syncthreads();
  for (int i = lane; i < kMatrices * 64; i += kWarp) out[i] = matrices[i];
#endif
}

template <int kMatrices, bool kTrans>
void test_matrix_moves(const char* load_name, const char* store_name, bool has_stmatrix) {
  Words loaded(kMatrices * kWarp), stored(kMatrices * 64);
  std::vector<uint32_t> wanted_loaded, wanted_stored(kMatrices * 64);
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int m = 0; m < kMatrices; ++m) {
      uint32_t pair = 0;
      for (int i = 0; i < 2; ++i) {
        const int row = lane / 4, column = 2 * (lane % 4) + i;
        const int element = 64 * m + (kTrans ? 8 * column + row : 8 * row + column);
        pair |= unsigned(element) << 16 * i;
        wanted_stored[size_t(element)] = unsigned(2 * (m * kWarp + lane) + i);
      }
      wanted_loaded.push_back(pair);
    }
  }
  cudaError_t error = launch_kernel(ldmatrix_kernel<kMatrices, kTrans>, dim3(1), dim3(kWarp), 0,
                                    nullptr, loaded.data);
  report(load_name, error, loaded.data, wanted_loaded);
  if (!has_stmatrix) return;
  error = launch_kernel(stmatrix_kernel<kMatrices, kTrans>, dim3(1), dim3(kWarp), 0, nullptr,
                        stored.data);
  report(store_name, error, stored.data, wanted_stored);
}

enum class Mma { kK16Half, kK16BFloat16, kK8Half, kK8BFloat16, kK8Tf32 };

// `in`: per lane 4 registers of a, 2 of b.
template <Mma kMma>
__global__ void mma_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = in[lane * 6 + i];
  for (int i = 0; i < 2; ++i) b[i] = in[lane * 6 + 4 + i];
  float d[4] = {1.f, 2.f, 3.f, 4.f};
  if constexpr (kMma == Mma::kK16Half) ptx::mma_m16n8k16<__half>(d, a, b);
  if constexpr (kMma == Mma::kK16BFloat16) ptx::mma_m16n8k16<__nv_bfloat16>(d, a, b);
  const uint32_t two[2] = {a[0], a[1]};
  if constexpr (kMma == Mma::kK8Half) ptx::mma_m16n8k8<__half>(d, two, b[0]);
  if constexpr (kMma == Mma::kK8BFloat16) ptx::mma_m16n8k8<__nv_bfloat16>(d, two, b[0]);
  if constexpr (kMma == Mma::kK8Tf32) ptx::mma_m16n8k8_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = __float_as_uint(d[i]);
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// A small integer as 16 bits: the upper half of its float32, or an IEEE half.
uint32_t small(int value, bool bfloat16) {
  if (bfloat16) return bits_of(float(value)) >> 16;
  if (value == 0) return 0;
  int exponent = 0;
  for (int v = std::abs(value); v > 1; v /= 2) ++exponent;
  const uint32_t mantissa = (uint32_t(std::abs(value)) << (10 - exponent)) & 0x3ffu;
  return (value < 0 ? 0x8000u : 0u) | uint32_t(exponent + 15) << 10 | mantissa;
}

// The products of small integers are exact in any order of additions.
template <Mma kMma>
void test_mma(const char* name) {
  constexpr bool kTf32 = kMma == Mma::kK8Tf32;
  constexpr bool kBFloat16 = kMma == Mma::kK16BFloat16 || kMma == Mma::kK8BFloat16;
  constexpr int kDepth = kMma == Mma::kK16Half || kMma == Mma::kK16BFloat16 ? 16 : 8;
  const auto a = [](int m, int k) { return (m * 7 + k * 3) % 13 - 6; };
  const auto b = [](int k, int n) { return (k * 5 + n * 11) % 17 - 8; };
  Words in(kWarp * 6), out(kWarp * 4);
  std::vector<uint32_t> wanted;
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4, t = lane % 4;
    uint32_t* registers = in.data + lane * 6;
    if (kTf32) {
      for (int i = 0; i < 4; ++i) {
        // The lower bits are not part of the operand.
        registers[i] = bits_of(float(a(g + i % 2 * 8, t + i / 2 * 4))) | 0x1fffu;
      }
      for (int i = 0; i < 2; ++i) registers[4 + i] = bits_of(float(b(t + 4 * i, g))) | 0x1fffu;
    } else {
      for (int i = 0; i < kDepth / 4; ++i) {
        const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
        registers[i] = small(a(row, column), kBFloat16) | small(a(row, column + 1), kBFloat16)
                                                              << 16;
      }
      for (int i = 0; i < kDepth / 8; ++i) {
        const int row = 2 * t + 8 * i;
        registers[4 + i] = small(b(row, g), kBFloat16) | small(b(row + 1, g), kBFloat16) << 16;
      }
    }
    for (int i = 0; i < 4; ++i) {
      int sum = i + 1;
      for (int k = 0; k < kDepth; ++k) sum += a(g + i / 2 * 8, k) * b(k, 2 * t + i % 2);
      wanted.push_back(bits_of(float(sum)));
    }
  }
  const cudaError_t error =
      launch_kernel(mma_kernel<kMma>, dim3(1), dim3(kWarp), 0, nullptr, in.data, out.data);
  report(name, error, out.data, wanted);
}

__global__ void to_tf32_kernel(const uint32_t* in, uint32_t* out) {
  out[threadIdx.x] = ptx::to_tf32(__uint_as_float(in[threadIdx.x]));
}

void test_to_tf32() {
  // Bits and what they round to: exact, below half, half (away from zero), above, carry, signs.
  const uint32_t pairs[][2] = {{0x3f800000u, 0x3f800000u}, {0x3f800fffu, 0x3f800000u},
                               {0x3f801000u, 0x3f802000u}, {0x3f801001u, 0x3f802000u},
                               {0x3fffffffu, 0x40000000u}, {0xbf801000u, 0xbf802000u},
                               {0x00000000u, 0x00000000u}, {0x7f800000u, 0x7f800000u}};
  constexpr int kCount = 8;
  Words in(kCount), out(kCount);
  std::vector<uint32_t> wanted;
  for (int i = 0; i < kCount; ++i) in.data[i] = pairs[i][0], wanted.push_back(pairs[i][1]);
  const cudaError_t error =
      launch_kernel(to_tf32_kernel, dim3(1), dim3(kCount), 0, nullptr, in.data, out.data);
  report("to_tf32", error, out.data, wanted);
}

__global__ void approx_kernel(const uint32_t* in, uint32_t* out) {
  const float x = __uint_as_float(in[threadIdx.x]);
  const float y = threadIdx.x < 4 ? ptx::exp2_approx(x) : ptx::reciprocal_approx(x);
  out[threadIdx.x] = __float_as_uint(y);
}

void test_approx() {
  // 2^x of 0, a subnormal number, both infinities; 1/x of zero, both infinities, 2^127.
  const uint32_t pairs[][2] = {{0x00000000u, 0x3f800000u}, {0x00400000u, 0x3f800000u},
                               {0xff800000u, 0x00000000u}, {0x7f800000u, 0x7f800000u},
                               {0x00000000u, 0x7f800000u}, {0x7f800000u, 0x00000000u},
                               {0xff800000u, 0x80000000u}, {0x7f000000u, 0x00000000u}};
  constexpr int kCount = 8;
  Words in(kCount), out(kCount);
  std::vector<uint32_t> wanted;
  for (int i = 0; i < kCount; ++i) in.data[i] = pairs[i][0], wanted.push_back(pairs[i][1]);
  const cudaError_t error =
      launch_kernel(approx_kernel, dim3(1), dim3(kCount), 0, nullptr, in.data, out.data);
  report("exp2_approx and reciprocal_approx", error, out.data, wanted);
}

// Warp 0 writes and goes on; warp 1 waits for it; both meet twice.
__global__ void named_barrier_kernel(uint32_t* out) {
  EFFKERN_SHARED(uint32_t, staged, [kWarp]);
  const int thread = threadIdx.x;
  if (thread < kWarp) {
    staged[thread] = unsigned(thread) * 3;
    ptx::named_barrier_arrive(1, 2 * kWarp);
    ptx::named_barrier_sync(2, 2 * kWarp);
  } else {
    ptx::named_barrier_sync(1, 2 * kWarp);
    out[thread - kWarp] = staged[2 * kWarp - 1 - thread];
    ptx::named_barrier_sync(2, 2 * kWarp);
  }
}

void test_named_barriers() {
  Words out(kWarp);
  std::vector<uint32_t> wanted;
  for (int i = 0; i < kWarp; ++i) wanted.push_back(unsigned(kWarp - 1 - i) * 3);
  const cudaError_t error =
      launch_kernel(named_barrier_kernel, dim3(1), dim3(2 * kWarp), 0, nullptr, out.data);
  report("named_barrier", error, out.data, wanted);
}

// Each block reads what its neighbour in the cluster wrote, and writes to it.
__global__ void cluster_kernel(uint32_t* out) {
#if EFFKERN_HAS_SM90
  EFFKERN_SHARED(uint32_t, staged, [2 * kWarp]);
  const unsigned rank = ptx::cluster_rank(), lane = threadIdx.x;
  staged[lane] = 1000 * rank + lane;
  ptx::cluster_arrive();
  ptx::cluster_wait();
  uint32_t* other = ptx::cluster_shared(&staged[0], rank ^ 1u);
  other[kWarp + lane] = staged[lane] + 500;
  const uint32_t read = other[lane];
  ptx::cluster_arrive();
  ptx::cluster_wait();
  out[(blockIdx.x * 2) * kWarp + lane] = read;
  out[(blockIdx.x * 2 + 1) * kWarp + lane] = staged[kWarp + lane];
#endif
}

void test_cluster() {
  constexpr int kBlocks = 4;
  Words out(kBlocks * 2 * kWarp);
  std::vector<uint32_t> wanted;
  for (unsigned block = 0; block < kBlocks; ++block) {
    const unsigned other = block % 2 ^ 1u;
    for (unsigned add : {0u, 500u}) {
      for (unsigned lane = 0; lane < kWarp; ++lane) wanted.push_back(1000 * other + lane + add);
    }
  }
  const cudaError_t error = launch_cluster_kernel(cluster_kernel, dim3(kBlocks), dim3(kWarp),
                                                  dim3(2), 0, nullptr, out.data);
  report("cluster", error, out.data, wanted);
}

int run() {
  int capability = 9;
#ifndef EFFKERN_EMULATION
  if (cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess) {
    std::printf("no CUDA device\n");
    return 2;
  }
#endif
  const bool sm90 = capability >= 9;
  test_store_global<uint2>("store_global<uint2>");
  test_store_global<uint4>("store_global<uint4>");
  test_cp_async<4>("cp_async<4>");
  test_cp_async<8>("cp_async<8>");
  test_cp_async<16>("cp_async<16>");
  test_matrix_moves<1, false>("ldmatrix<1>", "stmatrix<1>", sm90);
  test_matrix_moves<2, false>("ldmatrix<2>", "stmatrix<2>", sm90);
  test_matrix_moves<4, false>("ldmatrix<4>", "stmatrix<4>", sm90);
  test_matrix_moves<1, true>("ldmatrix<1, trans>", "stmatrix<1, trans>", sm90);
  test_matrix_moves<2, true>("ldmatrix<2, trans>", "stmatrix<2, trans>", sm90);
  test_matrix_moves<4, true>("ldmatrix<4, trans>", "stmatrix<4, trans>", sm90);
  test_mma<Mma::kK16Half>("mma_m16n8k16<half>");
  test_mma<Mma::kK16BFloat16>("mma_m16n8k16<bfloat16>");
  test_mma<Mma::kK8Half>("mma_m16n8k8<half>");
  test_mma<Mma::kK8BFloat16>("mma_m16n8k8<bfloat16>");
  test_mma<Mma::kK8Tf32>("mma_m16n8k8_tf32");
  test_to_tf32();
  test_approx();
  test_named_barriers();
  if (sm90) test_cluster();
  std::printf("%d failures\n", failures);
  return failures != 0;
}

}  // namespace effkern::conformance

int main() { return effkern::conformance::run(); }
