// Forward and input gradient of the CUDA backend: dtype dispatch.
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

#include "common/dtype.cuh"
#include "depthwise_conv2d/depthwise_conv2d_launch.cuh"

namespace effkern {

const char* cuda_error_string(int error) { return launch_error_string(cudaError_t(error)); }

int64_t depthwise_conv2d_workspace_cuda(const DepthwiseConv2dProblem& problem, Pass pass,
                                        const void* input, const Strides4& input_strides,
                                        const void* output, const Strides4& output_strides) {
  int64_t bytes = 0;
  with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto& p = problem;
    const Image4<const T> x{static_cast<const T*>(input), p.in_channels, p.height, p.width,
                            input_strides};
    const Image4<const T> y{static_cast<const T*>(output), p.out_channels, p.out_height(),
                            p.out_width(), output_strides};
    if (pass == Pass::kGradWeight) {
      bytes = grad_weight_workspace_bytes(p, x, y);
    } else if (has_toeplitz_cuda_kernel(p)) {
      bytes = detail::stencil_planes_bytes(p.batch, p.kernel_h, p.kernel_w, x, y);
    }
    return cudaSuccess;
  });
  return bytes;
}

int depthwise_conv2d_forward_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                  const Strides4& input_strides, const void* weight,
                                  const void* bias, void* output, const Strides4& output_strides,
                                  void* workspace, void* stream) {
  return with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    const BiasActivation<T> epilogue{static_cast<const T*>(bias), problem.activation};
    return launch_forward(problem, static_cast<const T*>(input), input_strides,
                          static_cast<const T*>(weight), static_cast<T*>(output), output_strides,
                          epilogue, workspace, static_cast<cudaStream_t>(stream));
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
                          epilogue, nullptr, static_cast<cudaStream_t>(stream));
  });
}

int depthwise_conv2d_grad_input_cuda(const DepthwiseConv2dProblem& problem, const void* grad_output,
                                     const Strides4& grad_output_strides, const void* weight,
                                     void* grad_input, const Strides4& grad_input_strides,
                                     void* workspace, void* stream) {
  return with_dtype(problem.dtype, [&](auto tag) {
    using T = decltype(tag);
    return launch_grad_input(problem, static_cast<const T*>(grad_output), grad_output_strides,
                             static_cast<const T*>(weight), static_cast<T*>(grad_input),
                             grad_input_strides, workspace, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace effkern
