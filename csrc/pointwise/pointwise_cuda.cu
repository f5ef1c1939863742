// pointwise of the CUDA backend: dtype dispatch.
#include "pointwise/pointwise_cuda.h"

#include "pointwise/pointwise_launch.cuh"

namespace effkern {

int pointwise_cuda(const PointwiseCudaProblem& problem, const PointwiseCudaPointers& tensors,
                   void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
#ifndef EFFKERN_EMULATION_TWO_TYPES
  if (problem.dtype == DType::kFloat16) return launch_pointwise<__half>(problem, tensors, on);
#endif
  return launch_pointwise<__nv_bfloat16>(problem, tensors, on);
}

}  // namespace effkern
