// Weight and bias gradient of the CUDA backend, alone and together with that of the input: dtype
// dispatch.
#include "common/dtype.cuh"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "depthwise_conv2d/depthwise_conv2d_gradients_launch.cuh"

namespace effkern {
namespace {

// *served: whether there is a kernel; without, nothing is launched.
int run_gradients(const DepthwiseConv2dProblem& p, const CudaGradients& t, void* workspace,
                  void* stream, int64_t* bytes, bool dry, bool* served) {
  return with_dtype(p.dtype, [&](auto tag) -> int {
    using T = decltype(tag);
    cudaError_t error = cudaSuccess;
    if constexpr (!std::is_same_v<T, double>) {
      *served = launch_gradients(
          p, static_cast<const T*>(t.input), t.input_strides, static_cast<const T*>(t.grad_output),
          t.grad_output_strides, static_cast<const T*>(t.weight), static_cast<T*>(t.grad_input),
          t.grad_input_strides, static_cast<T*>(t.grad_weight), static_cast<T*>(t.grad_bias),
          workspace, bytes, dry, static_cast<cudaStream_t>(stream), &error);
    }
    return error;
  });
}

}  // namespace

int64_t depthwise_conv2d_gradients_workspace_cuda(const DepthwiseConv2dProblem& problem,
                                                  const CudaGradients& tensors) {
  bool served = false;
  int64_t bytes = -1;
  run_gradients(problem, tensors, nullptr, nullptr, &bytes, true, &served);
  return bytes;
}

int depthwise_conv2d_gradients_cuda(const DepthwiseConv2dProblem& problem,
                                    const CudaGradients& tensors, void* workspace, void* stream) {
  bool served = false;
  int64_t bytes = 0;
  const int error = run_gradients(problem, tensors, workspace, stream, &bytes, false, &served);
  return error || served ? error : int(cudaErrorInvalidValue);
}

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
