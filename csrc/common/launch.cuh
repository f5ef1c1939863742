// How kernels reach dynamic shared memory and how they are launched. No other file declares the one
// or does the other, so that an implementation of CUDA on the host can replace this file.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

// A pointer to the block's dynamic shared memory, 16-byte aligned.
#define EFFKERN_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char effkern_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(effkern_dynamic_shared)

namespace effkern {

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
  const cudaError_t error =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

}  // namespace effkern
