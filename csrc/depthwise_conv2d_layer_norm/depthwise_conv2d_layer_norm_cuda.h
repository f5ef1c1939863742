// CUDA backend of depthwise_conv2d_layer_norm: plain C++, no CUDA headers, so that the operator
// needs no toolkit.
#pragma once

#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_plan.h"

namespace effkern {

// Device pointers. Images are dense channels_last and aligned to 16 bytes; weight is [channels][k]
// [k] and bias [channels], of the images' dtype. What belongs to the LayerNorm is float32:
// norm_weight and norm_bias [channels], mean and rstd [batch][out_height][out_width]. Bias,
// norm_weight, norm_bias and, both of them, mean and rstd may be null.
struct DepthwiseConv2dLayerNormCudaPointers {
  const void *input = nullptr, *weight = nullptr, *bias = nullptr;
  const float *norm_weight = nullptr, *norm_bias = nullptr;
  void* output = nullptr;
  float *mean = nullptr, *rstd = nullptr;
};

// Enqueues on `stream` (a cudaStream_t) of the current device and returns at once. Allocates
// nothing, never synchronises, returns a cudaError_t as int, for cuda_error_string. The plan of the
// problem must not be a refusal. Results depend on the problem alone, bit by bit.
int depthwise_conv2d_layer_norm_cuda(const DepthwiseConv2dLayerNormCudaProblem& problem,
                                     const DepthwiseConv2dLayerNormCudaPointers& tensors, float eps,
                                     void* stream);

}  // namespace effkern
