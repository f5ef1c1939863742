// depthwise_conv2d_layer_norm of the CUDA backend: dtype dispatch.
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda.h"

#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_launch.cuh"

namespace effkern {

int depthwise_conv2d_layer_norm_cuda(const DepthwiseConv2dLayerNormCudaProblem& problem,
                                     const DepthwiseConv2dLayerNormCudaPointers& tensors, float eps,
                                     void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (problem.dtype == DType::kFloat32)
    return launch_depthwise_conv2d_layer_norm<float>(problem, tensors, eps, on);
#ifndef EFFKERN_EMULATION_TWO_TYPES
  if (problem.dtype == DType::kFloat16)
    return launch_depthwise_conv2d_layer_norm<__half>(problem, tensors, eps, on);
#endif
  return launch_depthwise_conv2d_layer_norm<__nv_bfloat16>(problem, tensors, eps, on);
}

}  // namespace effkern
