// What the operators of the forward with hooks have in common, on every device.
#pragma once

#include <optional>
#include <tuple>

#include "depthwise_conv2d/depthwise_conv2d_arguments.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

namespace effkern {

// output, sum, sum of squares; what was not asked for is empty.
using FusedResults = std::tuple<Tensor, Tensor, Tensor>;

// Checks the arguments of the forward with hooks, `op`, and throws as check_arguments does.
DepthwiseConv2dProblem check_fused_arguments(
    const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& input_scale, const std::optional<Tensor>& input_shift,
    const Geometry& geometry, int64_t activation, int64_t input_activation, int64_t sums);

// depthwise_conv2d_fused_op.cpp: the operator.
FusedResults run_depthwise_conv2d_fused(const Tensor& input, const Tensor& weight,
                                        const std::optional<Tensor>& bias,
                                        const std::optional<Tensor>& input_scale,
                                        const std::optional<Tensor>& input_shift,
                                        const Geometry& geometry, int64_t activation,
                                        int64_t input_activation, int64_t sums, int64_t backend);

// Fresh sums of a problem: contiguous, in the accumulation type; with `wanted` false empty.
Tensor empty_sums(const TensorView& input, const DepthwiseConv2dProblem& problem, bool wanted);

// Throws that no kernel takes the tensors.
[[noreturn]] void fail_without_hooks(const char* op, const DepthwiseConv2dProblem& problem);

// depthwise_conv2d_cuda_op.cpp; a library without CUDA kernels has it too, it throws.
void cuda_fused(const char* op, const DepthwiseConv2dProblem& problem, const TensorView& input,
                const Tensor& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& input_scale, const std::optional<Tensor>& input_shift,
                const TensorView& output, const TensorView& sum, const TensorView& sum_of_squares);

}  // namespace effkern
