// How kernels declare shared memory and how they are launched. No other file declares the one or
// does the other, so that the emulator (EFFKERN_EMULATION, a host compiler) can take its place.
#pragma once

#ifdef EFFKERN_EMULATION
#include "emulation/launch.h"
#else

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdio>

#include "common/planned_launch.h"

// What access wrappers tell the emulator.
#define EFFKERN_SITE
#define EFFKERN_PASS_SITE
#define EFFKERN_GLOBAL_ACCESS(address, bytes, access) ((void)0)
#define EFFKERN_GLOBAL_ACCESS_IF(active, address, bytes, access) ((void)0)
#define EFFKERN_SHARED_ACCESS(address, bytes, access) ((void)0)
// On a way that no launch on finite numbers takes.
#define EFFKERN_NOT_FINITE() ((void)0)

// An array in shared memory, 16-byte aligned: EFFKERN_SHARED(float, name, [rows][columns]).
#define EFFKERN_SHARED(type, name, ...) __shared__ __align__(16) type name __VA_ARGS__

// A pointer to the block's dynamic shared memory, 16-byte aligned.
#define EFFKERN_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char effkern_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(effkern_dynamic_shared)

namespace effkern {
namespace detail {

// Of the calling thread's latest launch that failed.
struct FailedLaunch {
  dim3 grid, block;
  size_t shared_memory;
};
inline thread_local FailedLaunch failed_launch;

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const char* name, void (*kernel)(Parameters...),
                   const cudaLaunchConfig_t& config, Arguments... arguments) {
  if (planned_launches) {
    const dim3 &grid = config.gridDim, &block = config.blockDim;
    planned_launches->add({name, int64_t(grid.x) * grid.y * grid.z,
                           int64_t(block.x) * block.y * block.z, int64_t(config.dynamicSmemBytes)});
    return cudaSuccess;
  }
  const cudaError_t error =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) {
    failed_launch = {config.gridDim, config.blockDim, config.dynamicSmemBytes};
    (void)cudaGetLastError();
  }
  return error;
}

}  // namespace detail

// Enqueues kernel(arguments...) on `stream` and returns the launch's error, which is then no longer
// pending for a later cudaGetLastError. Errors of the kernel itself surface at the next
// synchronisation, as with every CUDA call.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                          size_t shared_memory, cudaStream_t stream, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  return detail::launch(nullptr, kernel, config, arguments...);
}

// The same, of a kernel whose name a planned launch shall have.
template <auto kKernel, typename... Arguments>
cudaError_t launch_kernel(dim3 grid, dim3 block, size_t shared_memory, cudaStream_t stream,
                          Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  return detail::launch(detail::kernel_text<kKernel>(), kKernel, config, arguments...);
}

// The same in thread-block clusters (sm_90).
template <typename... Parameters, typename... Arguments>
cudaError_t launch_cluster_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                  dim3 cluster, size_t shared_memory, cudaStream_t stream,
                                  Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster.x, cluster.y, cluster.z};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return detail::launch(nullptr, kernel, config, arguments...);
}

// Lets `kernel` have more than 48 KiB of dynamic shared memory.
template <typename... Parameters>
cudaError_t allow_shared_memory(void (*kernel)(Parameters...), size_t bytes) {
  if (detail::planned_launches) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
}

// Whether the current device is of this compute capability or newer; 80 for sm_80. Launches are
// planned for sm_90.
inline bool device_has_capability(int capability) {
  if (detail::planned_launches) return capability <= 90;
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         10 * major + minor >= capability;
}

// The error with what the launch asked for and what the device has; valid until the calling
// thread's next call.
inline const char* launch_error_string(cudaError_t error) {
  static thread_local char text[400];
  const detail::FailedLaunch& failed = detail::failed_launch;
  int device = 0, major = 0, minor = 0, threads = 0, registers = 0, shared = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerBlock, device);
  cudaDeviceGetAttribute(&registers, cudaDevAttrMaxRegistersPerBlock, device);
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  std::snprintf(text, sizeof text,
                "%s: wanted a grid of (%u,%u,%u) blocks of (%u,%u,%u) threads with %zu bytes of "
                "dynamic shared memory, got a device (sm_%d%d) with %d threads, %d registers and "
                "%d bytes of shared memory per block",
                cudaGetErrorString(error), failed.grid.x, failed.grid.y, failed.grid.z,
                failed.block.x, failed.block.y, failed.block.z, failed.shared_memory, major, minor,
                threads, registers, shared);
  return text;
}

}  // namespace effkern

#endif
