// The lean path of eager calls on CPU: effkern._C reads the tensors and makes the plan, and calls
// the kernels through these pointers into libeffkern_ops.so.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"

namespace effkern {

// Both return false if they did not compute: scratch memory or threads were not to be had.
struct EagerKernels {
  bool (*stencil)(const DepthwiseConv2dProblem& problem, const DepthwiseConv2dPlan& plan,
                  const StencilTensors& tensors);
  bool (*weight_grad)(const DepthwiseConv2dProblem& problem, const DepthwiseConv2dPlan& plan,
                      const WeightGradTensors& tensors);
};

}  // namespace effkern
