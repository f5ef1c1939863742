// Weight and bias gradient of the CUDA backend: dtype dispatch.
#include "common/dtype.cuh"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "depthwise_conv2d/depthwise_conv2d_launch.cuh"

namespace effkern {

int depthwise_conv2d_grad_weight_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                      const Strides4& input_strides, const void* grad_output,
                                      const Strides4& grad_output_strides, void* grad_weight,
                                      void* grad_bias, void* workspace, void* stream) {
  return with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    return launch_grad_weight(problem, static_cast<const T*>(input), input_strides,
                              static_cast<const T*>(grad_output), grad_output_strides,
                              static_cast<T*>(grad_weight), static_cast<T*>(grad_bias), workspace,
                              static_cast<cudaStream_t>(stream));
  });
}

}  // namespace effkern
