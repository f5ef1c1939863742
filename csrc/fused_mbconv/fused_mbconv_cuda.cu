// fused_mbconv of the CUDA backend: dtype dispatch.
#include "fused_mbconv/fused_mbconv_cuda.h"

#include "fused_mbconv/fused_mbconv_launch.cuh"

namespace effkern {

int fused_mbconv_cuda(const FusedMBConvProblem& problem, const FusedMBConvPointers& tensors,
                      void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
#ifndef EFFKERN_EMULATION_TWO_TYPES
  if (problem.dtype == DType::kFloat16) return launch_fused_mbconv<__half>(problem, tensors, on);
#endif
  return launch_fused_mbconv<__nv_bfloat16>(problem, tensors, on);
}

}  // namespace effkern
