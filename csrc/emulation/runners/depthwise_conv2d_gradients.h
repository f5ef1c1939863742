// All gradients by one kernel on the emulator, for the runner.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "emulation/runners/depthwise_conv2d_reference.h"

namespace effkern::runner {

template <typename T>
struct GradientsRun {
  View<T> dx, dw, db;
  bool served = false;
  int error = 0;

  GradientsRun(const DepthwiseConv2dProblem& p, const View<T>& x, const View<T>& weight,
               const View<T>& dy, Memory memory)
      : dx(memory, p.batch, p.in_channels, p.height, p.width),
        dw(Memory::kContiguous, 1, p.out_channels, p.kernel_h, p.kernel_w),
        db(Memory::kContiguous, 1, p.out_channels, 1, 1) {
    const CudaGradients tensors{x.data,     x.strides,   dy.data,
                                dy.strides, weight.data, dx.data,
                                dx.strides, dw.data,     p.has_bias ? db.data : nullptr};
    const int64_t bytes = depthwise_conv2d_gradients_workspace_cuda(p, tensors);
    if (bytes < 0) return;
    served = true;
    const emulation::GuardedMemory workspace{size_t(bytes)};
    const emulation::DeclaredBuffers declared(
        {x.buffer("input", false),
         dy.buffer("grad_output", false),
         weight.buffer("weight", false),
         dx.buffer("grad_input", true),
         dw.buffer("grad_weight", true),
         db.buffer("grad_bias", true),
         {workspace.data(), workspace.size(), "workspace", true}});
    error = depthwise_conv2d_gradients_cuda(p, tensors, workspace.data(), nullptr);
  }
};

}  // namespace effkern::runner
