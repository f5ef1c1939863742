// What the operators have in common, and need besides the CPU kernels: the CUDA kernels on torch's
// current stream, and torch's own convolution where the plan prefers it.
#pragma once

#include <tuple>

#include "depthwise_conv2d/depthwise_conv2d_arguments.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

namespace effkern {

// depthwise_conv2d_op.cpp. Torch's threads; the instruction set, read from EFFKERN_CPU once; throws
// if a driver returned false; a fresh output in the format that torch's convolution would give.
extern const Parallel kParallel;
CpuIsa cpu_isa();
void check_memory(const char* op, bool done);
Tensor output_like(const TensorView& input, const TensorView& weight,
                   const DepthwiseConv2dProblem& problem);

// depthwise_conv2d_op.cpp: what the operators do, for each of the forms that their arguments come
// in.
using Gradients = std::tuple<Tensor, Tensor, Tensor>;
Tensor run_depthwise_conv2d(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Geometry& geometry,
                            int64_t activation, int64_t backend);
Gradients run_depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                        const Tensor& weight, const Geometry& geometry,
                                        const bool (&needs)[3], int64_t backend);

// depthwise_conv2d_cuda_op.cpp. All work is enqueued on the current stream of the input's device;
// a library without CUDA kernels has these too, they throw.
void cuda_forward(const char* op, const DepthwiseConv2dProblem& problem, const TensorView& input,
                  const Tensor& weight, const std::optional<Tensor>& bias,
                  const StencilTensors& tensors);
// False if no kernel has all gradients of the tensors, whose weight is the tensor's.
bool cuda_gradients(const char* op, const DepthwiseConv2dProblem& problem, const TensorView& input,
                    const Tensor& weight, CudaGradients tensors);
void cuda_grad_input(const char* op, const DepthwiseConv2dProblem& problem, const TensorView& input,
                     const Tensor& weight, const StencilTensors& tensors);
void cuda_grad_weight(const char* op, const DepthwiseConv2dProblem& problem,
                      const TensorView& input, const WeightGradTensors& tensors);

// depthwise_conv2d_torch.cpp: the same results from aten's operators.
Tensor torch_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Geometry& geometry, const DepthwiseConv2dProblem& problem);
Tensor torch_activation_backward(const Tensor& grad_output, const Tensor& input,
                                 const Tensor& weight, const std::optional<Tensor>& bias,
                                 const Geometry& geometry, const DepthwiseConv2dProblem& problem);
std::tuple<Tensor, Tensor, Tensor> torch_backward(const Tensor& grad_output, const Tensor& input,
                                                  const Tensor& weight, const Geometry& geometry,
                                                  const DepthwiseConv2dProblem& problem,
                                                  const bool (&needs)[3]);

}  // namespace effkern
