// CUDA backend of pointwise: plain C++, no CUDA headers, so that the operator needs no toolkit.
#pragma once

#include "pointwise/pointwise_cuda_plan.h"

namespace effkern {

// Device pointers to tensors of the problem's dtype, aligned to 16 bytes. Images are dense
// channels_last; weight is [out_channels, in_channels], bias and scale [out_channels], gate
// [images, in_channels]. Bias, gate, scale and residual may be null.
struct PointwiseCudaPointers {
  const void *input = nullptr, *weight = nullptr, *bias = nullptr, *gate = nullptr;
  const void *scale = nullptr, *residual = nullptr;
  void* output = nullptr;
};

// Enqueues on `stream` (a cudaStream_t) of the current device and returns at once. Allocates
// nothing, never synchronises, returns a cudaError_t as int, for cuda_error_string. The plan of the
// problem must not be a refusal. Results depend on the problem alone, bit by bit.
int pointwise_cuda(const PointwiseCudaProblem& problem, const PointwiseCudaPointers& tensors,
                   void* stream);

}  // namespace effkern
