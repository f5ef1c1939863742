// CUDA backend of depthwise_conv2d: plain C++, no CUDA headers, so that the operator needs no
// toolkit.
//
// All functions enqueue on `stream` (a cudaStream_t) of the current device and return at once. They
// allocate nothing, never synchronise, and return a cudaError_t as int: 0, or the error of a
// launch. Tensors are device pointers with strides in elements; every stride is non-negative.
// Weights and weight gradients are contiguous [out_channels, 1, kernel_h, kernel_w], biases
// contiguous [out_channels]. All tensors of a call have problem.dtype; 16-bit types are accumulated
// in float32. Results depend on the problem and the strides alone, bit by bit. problem.pass is not
// looked at.
#pragma once

#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// A description of an error returned by the functions below; never null, lives for ever.
const char* cuda_error_string(int error);

// Bytes of device memory that the function of a pass below wants for `workspace`, aligned to 16,
// whose contents do not matter, before or after: partial sums of a weight gradient, and copies of
// channels_last images as planes. Of sums at most 16 MiB, or one [out_channels, taps + 1] array
// where that is larger; of copies at most 32 MiB, or those of one image (weight gradient: of 32
// channels of all images) where they are larger. `input` is the pass' tensor of the input's shape,
// `output` that of the output's; nothing is read.
int64_t depthwise_conv2d_workspace_cuda(const DepthwiseConv2dProblem& problem, Pass pass,
                                        const void* input, const Strides4& input_strides,
                                        const void* output, const Strides4& output_strides);

// output = activation(conv(input, weight) + bias). input is [batch, in_channels, height, width],
// output [batch, out_channels, out_height, out_width]; bias may be null.
int depthwise_conv2d_forward_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                  const Strides4& input_strides, const void* weight,
                                  const void* bias, void* output, const Strides4& output_strides,
                                  void* workspace, void* stream);

// grad = grad_output * activation'(conv(input, weight) + bias), all of the output's shape.
int depthwise_conv2d_activation_backward_cuda(const DepthwiseConv2dProblem& problem,
                                              const void* grad_output,
                                              const Strides4& grad_output_strides,
                                              const void* input, const Strides4& input_strides,
                                              const void* weight, const void* bias, void* grad,
                                              const Strides4& grad_strides, void* stream);

// The gradient of conv(input, weight) with respect to its input; bias and activation are ignored.
int depthwise_conv2d_grad_input_cuda(const DepthwiseConv2dProblem& problem, const void* grad_output,
                                     const Strides4& grad_output_strides, const void* weight,
                                     void* grad_input, const Strides4& grad_input_strides,
                                     void* workspace, void* stream);

// Why the direct CUDA kernels do not take the problem's prologue and sums with them, null if they
// do. Part of the planner.
const char* no_hooked_cuda_kernel(const DepthwiseConv2dProblem& problem);
inline bool has_hooked_cuda_kernel(const DepthwiseConv2dProblem& problem) {
  return no_hooked_cuda_kernel(problem) == nullptr;
}

// The largest kernels whose tiles of channels_last images are transposed in shared memory; images
// are copied as planes for larger ones.
inline constexpr int64_t kMaxTransposedKernelH = 21, kMaxTransposedKernelW = 17;

// Whether a weight gradient copies channels_last images as planes, for its tensor-core kernel. Part
// of the planner, as the next one.
bool copies_for_weight_grad(const DepthwiseConv2dProblem& problem);

// How the tensor-core kernels take channels_last tensors of a problem, or of its weight gradient,
// that they serve for contiguous ones: the plan's reason, null if they do not.
const char* channels_last_products(const DepthwiseConv2dProblem& problem, bool weight_grad);

// What the forward with hooks has besides; null where the problem has it not. One number per input
// channel, and contiguous sums as in DepthwiseConv2dProblem, in float32.
struct CudaHooks {
  const float *scale = nullptr, *shift = nullptr;
  float *sum = nullptr, *sum_of_squares = nullptr;
  void* workspace = nullptr;
};

// Bytes of device memory that the forward with hooks needs, aligned to 4; -1 if there is no kernel
// for these tensors, of which nothing is read.
int64_t depthwise_conv2d_fused_workspace_cuda(const DepthwiseConv2dProblem& problem,
                                              const void* input, const Strides4& input_strides,
                                              const void* output, const Strides4& output_strides);

// output = activation(conv(input_activation(scale * input + shift), weight) + bias) and the sums of
// it that the problem wants. The workspace's contents do not matter, before or after.
int depthwise_conv2d_fused_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                const Strides4& input_strides, const void* weight, const void* bias,
                                const CudaHooks& hooks, void* output,
                                const Strides4& output_strides, void* stream);

// Whether one kernel has all gradients of a problem in channels_last, whose alignment it asks for
// besides. Part of the planner.
bool has_gradients_cuda_kernel(const DepthwiseConv2dProblem& problem);

// The tensors of all gradients of conv(input, weight) + bias; grad_bias may be null.
struct CudaGradients {
  const void* input;
  Strides4 input_strides;
  const void* grad_output;
  Strides4 grad_output_strides;
  const void* weight;
  void* grad_input;
  Strides4 grad_input_strides;
  void *grad_weight, *grad_bias;
};

// Bytes of device memory that one kernel for all gradients needs, aligned to 4; -1 if there is none
// for these tensors, of which nothing is read.
int64_t depthwise_conv2d_gradients_workspace_cuda(const DepthwiseConv2dProblem& problem,
                                                  const CudaGradients& tensors);

// All gradients by that kernel; grad_output is read once.
int depthwise_conv2d_gradients_cuda(const DepthwiseConv2dProblem& problem,
                                    const CudaGradients& tensors, void* workspace, void* stream);

// The gradients of conv(input, weight) + bias with respect to weight and bias; grad_bias may be
// null.
int depthwise_conv2d_grad_weight_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                      const Strides4& input_strides, const void* grad_output,
                                      const Strides4& grad_output_strides, void* grad_weight,
                                      void* grad_bias, void* workspace, void* stream);

}  // namespace effkern
