// The emulator's own tests: kernels that are right, and kernels with one planted fault each.
//
//     faults <name> [order]     runs one of kCases; prints what it did; 0: no fault was reported
//     faults                    lists them
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "common/ptx.cuh"
#include "emulation/emulator.h"

// Not anonymous: messages name the kernels by their symbols.
namespace effkern::faults {

constexpr int kThreads = 128, kBlocks = 3, kCount = kThreads * kBlocks;

// Reverses each block's values; the planted faults are variations of it.
enum class Fault {
  kNone,
  kNoBarrier,
  kDivergentBarrier,
  kBarrierOnTwoLines,
  kEarlyReturn,
  kStaticOverrun,
  kDynamicOverrun,
  kGlobalOverrun,
  kMisalignedGlobal,
  kMisalignedShared,
  kWriteToInput,
};

template <Fault kFault>
__global__ void reverse(const float* input, float* output, int count) {
  EFFKERN_SHARED(float, staged, [kThreads]);
  EFFKERN_DYNAMIC_SHARED(float, copy);
  const int thread = threadIdx.x, first = blockIdx.x * kThreads;
  if (kFault == Fault::kEarlyReturn && thread == 77) return;
  const int overrun = kFault == Fault::kGlobalOverrun && first + thread == count - 1;
  const float value = load_scalar(input + first + thread + overrun);
  store_shared(&staged[thread + (kFault == Fault::kStaticOverrun ? thread / 127 : 0)], value);
  store_shared(copy + thread + (kFault == Fault::kDynamicOverrun ? thread / 127 : 0), value);
  if (kFault == Fault::kBarrierOnTwoLines) {
    if (thread < 64) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (kFault != Fault::kNoBarrier) {
    __syncthreads();
  }
  if (kFault == Fault::kDivergentBarrier && thread < 64) __syncthreads();
  const float reversed = load_shared(&staged[kThreads - 1 - thread]);
  if (kFault == Fault::kMisalignedGlobal) load<4>(input + 1 + thread / 4 * 4);
  if (kFault == Fault::kMisalignedShared) {
    float four[4];
    load_shared<4, 4>(&staged[thread / 8 + 1], four);
  }
  auto* to = kFault == Fault::kWriteToInput ? const_cast<float*>(input) : output;
  store_scalar(to + first + thread, reversed + 0 * load_shared(copy + kThreads - 1 - thread));
}

// Doubles each block's values by way of shared memory, 16 bytes at a time.
template <bool kWaits>
__global__ void copy_asynchronously(const float* input, float* output, int) {
  EFFKERN_SHARED(float, staged, [kThreads]);
  EFFKERN_DYNAMIC_SHARED(float, unused);
  const int thread = threadIdx.x, first = blockIdx.x * kThreads;
  (void)unused;
  if (thread < kThreads / 4) ptx::cp_async<16>(&staged[thread * 4], input + first + thread * 4);
  ptx::cp_async_commit();
  if (kWaits) ptx::cp_async_wait<0>();
  __syncthreads();
  store_scalar(output + first + thread, 2 * load_shared(&staged[thread]));
}

// Neighbours within a warp exchange values through shared memory.
template <bool kSyncs>
__global__ void swap_in_warps(const float* input, float* output, int) {
  EFFKERN_SHARED(float, staged, [kThreads]);
  const int thread = threadIdx.x, at = blockIdx.x * kThreads + thread;
  store_shared(&staged[thread], load_scalar(input + at));
  if (kSyncs) __syncwarp();
  store_scalar(output + at, load_shared(&staged[thread ^ 1]));
}

template <bool kAllLanes>
__global__ void sum_of_warps(const float* input, float* output, int) {
  const int thread = threadIdx.x, at = blockIdx.x * kThreads + thread;
  float sum = load_scalar(input + at);
  if (!kAllLanes && thread == 40) __syncwarp();
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  store_scalar(output + at, sum);
}

// Warps 0 and 1 produce, 2 and 3 consume; of these, one may forget the barrier.
template <bool kAllArrive>
__global__ void named_barriers(const float* input, float* output, int) {
  EFFKERN_SHARED(float, staged, [kThreads]);
  const int thread = threadIdx.x, first = blockIdx.x * kThreads;
  if (thread < 64) {
    store_shared(&staged[thread], load_scalar(input + first + thread));
    store_shared(&staged[thread + 64], load_scalar(input + first + thread + 64));
    ptx::named_barrier_arrive(3, kThreads);
  }
  if (kAllArrive ? thread >= 64 : thread >= 96) ptx::named_barrier_sync(3, kThreads);
  __syncthreads();
  store_scalar(output + first + thread, load_shared(&staged[thread]));
}

// The blocks of a cluster read each other's shared memory.
template <bool kWaits>
__global__ void rotate_in_cluster(const float* input, float* output, int) {
  EFFKERN_SHARED(float, staged, [kThreads]);
  const int thread = threadIdx.x, at = blockIdx.x * kThreads + thread;
  store_shared(&staged[thread], load_scalar(input + at));
  if (kWaits) ptx::cluster_arrive();
  if (kWaits) ptx::cluster_wait();
  const float* other = ptx::cluster_shared(&staged[0], (ptx::cluster_rank() + 1) % kBlocks);
  store_scalar(output + at, load_shared(other + thread));
  if (kWaits) ptx::cluster_arrive();
  if (kWaits) ptx::cluster_wait();
}

__global__ void atomic_sum(const float* input, float* output, int count) {
  EFFKERN_SHARED(float, sum, [4]);
  if (threadIdx.x == 0) store_shared(&sum[0], 0);
  __syncthreads();
  atomicAdd(&sum[0], load_scalar(input + blockIdx.x * kThreads + threadIdx.x));
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads * kBlocks)
    store_scalar(output + i, load_shared(&sum[0]));
}

__global__ void large_arrays(const float* input, float* output, int) {
  EFFKERN_SHARED(float, large, [13000]);
  store_shared(&large[threadIdx.x], load_scalar(input));
  store_scalar(output + threadIdx.x, load_shared(&large[threadIdx.x]));
}

// A plain pointer, as a wrapper that is not used would leave it.
__global__ void raw_overrun(const float*, float* output, int count) {
  store_scalar(output + threadIdx.x, 0);
  output[threadIdx.x == 5 ? 1 << 24 : 0] = float(count);
}

// The second of every two elements does not belong to the view.
template <int kStep>
__global__ void views(const float* input, float* output, int count) {
  for (int i = threadIdx.x; i < count / 2; i += kThreads)
    store_scalar(output + i, load_scalar(input + i * kStep));
}

using Kernel = void (*)(const float*, float*, int);
struct Shape {
  unsigned grid = kBlocks, block = kThreads, cluster = 1;
  size_t shared = kThreads * sizeof(float);
  bool view = false;
};
struct Case {
  const char* name;
  Kernel kernel;
  Shape shape = {};
};

const Case kCases[] = {
    {"reverse", reverse<Fault::kNone>},
    {"cp_async", copy_asynchronously<true>},
    {"syncwarp", swap_in_warps<true>},
    {"shuffle", sum_of_warps<true>},
    {"named_barrier", named_barriers<true>},
    {"cluster", rotate_in_cluster<true>, {kBlocks, kThreads, kBlocks}},
    {"atomics", atomic_sum},
    {"view", views<2>, {1, kThreads, 1, 0, true}},
    {"missing_barrier", reverse<Fault::kNoBarrier>},
    {"divergent_barrier", reverse<Fault::kDivergentBarrier>},
    {"barrier_on_two_lines", reverse<Fault::kBarrierOnTwoLines>},
    {"early_return", reverse<Fault::kEarlyReturn>},
    {"static_overrun", reverse<Fault::kStaticOverrun>},
    {"dynamic_overrun", reverse<Fault::kDynamicOverrun>},
    {"global_overrun", reverse<Fault::kGlobalOverrun>},
    {"raw_overrun", raw_overrun},
    {"misaligned_global", reverse<Fault::kMisalignedGlobal>},
    {"misaligned_shared", reverse<Fault::kMisalignedShared>},
    {"write_to_input", reverse<Fault::kWriteToInput>},
    {"missing_wait", copy_asynchronously<false>},
    {"missing_syncwarp", swap_in_warps<false>},
    {"shuffle_without_a_lane", sum_of_warps<false>},
    {"named_barrier_too_few", named_barriers<false>},
    {"cluster_without_barrier", rotate_in_cluster<false>, {kBlocks, kThreads, kBlocks}},
    {"view_out_of_bounds", views<1>, {1, kThreads, 1, 0, true}},
    {"too_many_threads", reverse<Fault::kNone>, {1, 1056}},
    {"empty_grid", reverse<Fault::kNone>, {0}},
    {"too_much_dynamic_shared", reverse<Fault::kNone>, {kBlocks, kThreads, 1, 49168}},
    {"too_much_static_shared", large_arrays},
    {"cluster_does_not_divide", reverse<Fault::kNone>, {kBlocks, kThreads, 2}},
};

float expected(const std::string& name, const float* input, int i) {
  const int first = i / kThreads * kThreads, thread = i % kThreads;
  if (name == "reverse") return input[first + kThreads - 1 - thread];
  if (name == "cp_async") return 2 * input[i];
  if (name == "syncwarp") return input[i ^ 1];
  if (name == "named_barrier") return input[i];
  if (name == "cluster") return input[(i + kThreads) % kCount];
  if (name == "view") return input[2 * i];
  float sum = 0;
  if (name == "shuffle") {
    for (int j = 0; j < 32; ++j) sum += input[i / 32 * 32 + j];
  } else {
    // Every block ends with the sum of its own values; the last one to run stays.
    for (int j = 0; j < kThreads; ++j) sum += input[first + j];
  }
  return sum;
}

int run(const Case& test) {
  const emulation::GuardedMemory in(kCount * sizeof(float)), out(kCount * sizeof(float));
  auto* input = static_cast<float*>(in.data());
  auto* output = static_cast<float*>(out.data());
  // Integers: sums in any order are exact.
  for (int i = 0; i < kCount; ++i) input[i] = float(i * 37 % 101 - 50);
  emulation::Buffer source{input, in.size(), "input", false};
  if (test.shape.view) {
    source.granularity = sizeof(float);
    for (int i = 0; i < kCount; ++i) source.mask.push_back(i % 2 == 0);
  }
  const emulation::DeclaredBuffers declared({source, {output, out.size(), "output", true}});
  const Shape& s = test.shape;
  const cudaError_t error =
      launch_cluster_kernel(test.kernel, dim3(s.grid), dim3(s.block), dim3(s.cluster), s.shared,
                            nullptr, input, output, kCount);
  if (error != cudaSuccess) {
    std::printf("error %d: %s\n", int(error), emulation::last_error().c_str());
    return 1;
  }
  if (std::strcmp(test.name, "atomics") == 0) return 0;
  const int count = test.shape.view ? kCount / 2 : kCount;
  for (int i = 0; i < count; ++i) {
    if (output[i] == expected(test.name, input, i)) continue;
    std::printf("wrong result: output[%d] is %g, wanted %g\n", i, output[i],
                expected(test.name, input, i));
    return 1;
  }
  return 0;
}

}  // namespace effkern::faults

int main(int argc, char** argv) {
  using namespace effkern;
  using namespace effkern::faults;
  if (argc > 2) {
    try {
      emulation::settings().set_order(argv[2]);
    } catch (const std::invalid_argument& error) {
      std::printf("%s\n", error.what());
      return 2;
    }
  }
  emulation::settings().check_races = std::getenv("EFFKERN_EMULATION_NO_RACE_CHECK") == nullptr;
  for (const Case& test : kCases) {
    if (argc < 2) std::printf("%s\n", test.name);
    if (argc > 1 && std::strcmp(argv[1], test.name) == 0) return run(test);
  }
  if (argc > 1) std::printf("no case %s\n", argv[1]);
  return argc > 1 ? 2 : 0;
}
