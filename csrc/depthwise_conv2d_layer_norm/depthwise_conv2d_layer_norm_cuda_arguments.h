// The arguments of depthwise_conv2d_layer_norm's CUDA kernel, checked and turned into a problem;
// shared by the operator and its emulated twin.
#pragma once

#include <optional>
#include <tuple>

#include "common/tensor_view.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda.h"

// input (N, C, H, W) is dense channels_last, all others are contiguous: weight (C, 1, k, k) and
// bias (C,) of its dtype, norm_weight and norm_bias (C,) in float32. mean and rstd are (N, H', W')
// in float32 where statistics are saved, else empty.
#define EFFKERN_LAYER_NORM_CUDA_SCHEMA                                                         \
  "depthwise_conv2d_layer_norm_forward(Tensor input, Tensor weight, Tensor? bias, Tensor? "    \
  "norm_weight, Tensor? norm_bias, float eps, int pad_top, int pad_bottom, int pad_left, int " \
  "pad_right, bool save_statistics, int backend) -> (Tensor output, Tensor mean, Tensor rstd)"

namespace effkern {

// The schema's parameters but the backend.
struct DepthwiseConv2dLayerNormCudaArguments {
  const Tensor &input, &weight;
  const std::optional<Tensor>&bias, &norm_weight, &norm_bias;
  double eps;
  int64_t pad_top, pad_bottom, pad_left, pad_right;
  bool save_statistics;
};

using DepthwiseConv2dLayerNormResults = std::tuple<Tensor, Tensor, Tensor>;

struct DepthwiseConv2dLayerNormCudaCall {
  DepthwiseConv2dLayerNormCudaProblem problem;
  // Those of the results are null in what check_depthwise_conv2d_layer_norm_cuda returns.
  DepthwiseConv2dLayerNormCudaPointers tensors;
};

// Throws with the argument, what was wanted and what was got; also where the plan is a refusal.
DepthwiseConv2dLayerNormCudaCall check_depthwise_conv2d_layer_norm_cuda(
    const char* op, const DepthwiseConv2dLayerNormCudaArguments& arguments);

// Fresh results, which the call then points to.
DepthwiseConv2dLayerNormResults depthwise_conv2d_layer_norm_cuda_results(
    const DepthwiseConv2dLayerNormCudaArguments& arguments, DepthwiseConv2dLayerNormCudaCall* call);

// Throws if a launch returned an error. Only where there are launches: a library without CUDA has
// no cuda_error_string.
inline void check_depthwise_conv2d_layer_norm_launch(const char* op,
                                                     const DepthwiseConv2dLayerNormCudaProblem& p,
                                                     int error) {
  if (__builtin_expect(error == 0, 1)) return;
  fail(op, ": CUDA error: ", cuda_error_string(error), ", at the launch for ", p.batch,
       " images of ", p.channels, " channels and ", p.height, " x ", p.width, " pixels, kernel ",
       p.kernel_h, " x ", p.kernel_w);
}

}  // namespace effkern
