// Forward and input gradient of the CUDA backend: dtype dispatch.
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

#include "common/dtype.cuh"
#include "depthwise_conv2d/depthwise_conv2d_launch.cuh"

namespace effkern {

const char* cuda_error_string(int error) { return launch_error_string(cudaError_t(error)); }

int depthwise_conv2d_forward_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                  const Strides4& input_strides, const void* weight,
                                  const void* bias, void* output, const Strides4& output_strides,
                                  void* stream) {
  return with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    const BiasActivation<T> epilogue{static_cast<const T*>(bias), problem.activation};
    return launch_forward(problem, static_cast<const T*>(input), input_strides,
                          static_cast<const T*>(weight), static_cast<T*>(output), output_strides,
                          epilogue, static_cast<cudaStream_t>(stream));
  });
}

int depthwise_conv2d_activation_backward_cuda(const DepthwiseConv2dProblem& problem,
                                              const void* grad_output,
                                              const Strides4& grad_output_strides,
                                              const void* input, const Strides4& input_strides,
                                              const void* weight, const void* bias, void* grad,
                                              const Strides4& grad_strides, void* stream) {
  return with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    const ActivationGrad<T> epilogue{static_cast<const T*>(bias), problem.activation,
                                     static_cast<const T*>(grad_output), grad_output_strides};
    return launch_forward(problem, static_cast<const T*>(input), input_strides,
                          static_cast<const T*>(weight), static_cast<T*>(grad), grad_strides,
                          epilogue, static_cast<cudaStream_t>(stream));
  });
}

int depthwise_conv2d_grad_input_cuda(const DepthwiseConv2dProblem& problem, const void* grad_output,
                                     const Strides4& grad_output_strides, const void* weight,
                                     void* grad_input, const Strides4& grad_input_strides,
                                     void* stream) {
  return with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    return launch_grad_input(problem, static_cast<const T*>(grad_output), grad_output_strides,
                             static_cast<const T*>(weight), static_cast<T*>(grad_input),
                             grad_input_strides, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace effkern
