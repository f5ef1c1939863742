// Depthwise convolution with stride 1 and dilation 1, then LayerNorm over the channels of each
// pixel, on CPU: how a problem is computed. No torch.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

struct DepthwiseConv2dLayerNormPlan {
  // The convolution that runs: in float32 for 16-bit tensors, which are rounded at the end only.
  DepthwiseConv2dProblem problem;
  DepthwiseConv2dPlan convolution;
  // A block of rows is normalised right after its convolution, by the same thread. Else a second
  // pass over the finished convolution does it.
  bool one_pass = false;
  // One pass over 16-bit tensors: the rows that a block reads are widened into scratch memory.
  bool widens = false;
  // Elements of the scratch memory in front of those rows.
  int64_t scratch_offset = 0;
  // Neighbouring pixels that one partial sum of the gradients of weight and bias covers, and those
  // sums.
  int64_t unit_pixels = 1, units = 0;
};

// A pure function; `problem` is that of the convolution, with kForward.
DepthwiseConv2dLayerNormPlan plan_depthwise_conv2d_layer_norm(const DepthwiseConv2dProblem& problem,
                                                              CpuIsa isa);

}  // namespace effkern
