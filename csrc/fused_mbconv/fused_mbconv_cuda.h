// CUDA backend of fused_mbconv: plain C++, no CUDA headers, so that the operator needs no toolkit.
#pragma once

#include "fused_mbconv/fused_mbconv.h"

namespace effkern {

// Device pointers to tensors of the problem's dtype, aligned to 16 bytes but for the biases. Images
// are dense channels_last. expand_weight is [hidden, kernel_h, kernel_w, in_channels],
// project_weight [out_channels, hidden]. The projection with its bias is multiplied by
// project_scale, [out_channels]. Biases, projection, its scale and residual may be null.
struct FusedMBConvPointers {
  const void *input = nullptr, *expand_weight = nullptr, *expand_bias = nullptr;
  const void *project_weight = nullptr, *project_bias = nullptr, *project_scale = nullptr;
  const void* residual = nullptr;
  void* output = nullptr;
};

// Enqueues on `stream` (a cudaStream_t) of the current device and returns at once. Allocates
// nothing, never synchronises, returns a cudaError_t as int, for cuda_error_string. The plan of the
// problem must not be a refusal. Results depend on the problem alone, bit by bit.
int fused_mbconv_cuda(const FusedMBConvProblem& problem, const FusedMBConvPointers& tensors,
                      void* stream);

}  // namespace effkern
