// What the lean path of eager calls takes from this library: the CPU drivers on torch's threads.
#include "depthwise_conv2d/depthwise_conv2d_eager.h"

#include "depthwise_conv2d/depthwise_conv2d_op.h"

namespace effkern {
namespace {

// The caller tries again through the operator, which says what is wrong.
template <class Function>
bool without_exceptions(const Function& function) {
  try {
    return function();
  } catch (...) {
    return false;
  }
}

bool stencil(const DepthwiseConv2dProblem& problem, const DepthwiseConv2dPlan& plan,
             const StencilTensors& tensors) {
  return without_exceptions([&] { return stencil_cpu(problem, plan, tensors, kParallel); });
}

bool weight_grad(const DepthwiseConv2dProblem& problem, const DepthwiseConv2dPlan& plan,
                 const WeightGradTensors& tensors) {
  return without_exceptions([&] { return weight_grad_cpu(problem, plan, tensors, kParallel); });
}

}  // namespace
}  // namespace effkern

extern "C" __attribute__((visibility("default"))) const effkern::EagerKernels*
effkern_eager_kernels() {
  static const effkern::EagerKernels kernels{&effkern::stencil, &effkern::weight_grad};
  return &kernels;
}
