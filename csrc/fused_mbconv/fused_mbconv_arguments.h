// The arguments of fused_mbconv, checked and turned into a problem; shared by the operator and its
// emulated twin.
#pragma once

#include <optional>

#include "common/tensor_view.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "fused_mbconv/fused_mbconv_cuda.h"

// `input` and `residual` are dense channels_last, expand_weight (E, C, kH, kW) as well;
// project_weight is contiguous (O, E), project_scale (O,).
#define EFFKERN_FUSED_MBCONV_SCHEMA                                                               \
  "fused_mbconv(Tensor input, Tensor expand_weight, Tensor? expand_bias, Tensor? "                \
  "project_weight, Tensor? project_bias, Tensor? project_scale, Tensor? residual, int stride_h, " \
  "int stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt pad_right, int "      \
  "activation, int backend) -> Tensor"

namespace effkern {

// The schema's parameters but the backend.
struct FusedMBConvArguments {
  const Tensor &input, &expand_weight;
  const std::optional<Tensor>&expand_bias, &project_weight, &project_bias, &project_scale;
  const std::optional<Tensor>& residual;
  int64_t stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, activation;
};

struct FusedMBConvCall {
  FusedMBConvProblem problem;
  // Of the arguments; the output's is null.
  FusedMBConvPointers tensors;
};

// Throws with the argument, what was wanted and what was got; also where the plan is a refusal.
FusedMBConvCall check_fused_mbconv(const char* op, const FusedMBConvArguments& arguments);

// A fresh channels_last result.
Tensor fused_mbconv_output(const FusedMBConvArguments& arguments,
                           const FusedMBConvProblem& problem);

// Throws if a launch returned an error. Only where there are launches: a library without CUDA has
// no cuda_error_string.
inline void check_fused_mbconv_launch(const char* op, const FusedMBConvProblem& p, int error) {
  if (__builtin_expect(error == 0, 1)) return;
  fail(op, ": CUDA error: ", cuda_error_string(error), ", at the launch for ", p.batch, "x",
       p.in_channels, "x", p.height, "x", p.width, ", ", p.hidden, " expanded and ", p.out_channels,
       " output channels, kernel ", p.kernel_h, "x", p.kernel_w, ", stride ", p.stride_h, "x",
       p.stride_w);
}

}  // namespace effkern
