// CPU driver: the convolution with its hooks, or followed by a second pass; partial sums.
#include <cstdlib>

#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu.h"

namespace effkern {
namespace {

const LayerNormKernels& layer_norm_kernels(CpuIsa isa, DType dtype, bool widens) {
#if defined(EFFKERN_X86)
  if (isa >= CpuIsa::kAvx512) return layer_norm_kernels_avx512(dtype, widens);
  if (isa == CpuIsa::kAvx2) return layer_norm_kernels_avx2(dtype, widens);
#endif
  (void)isa;
  return layer_norm_kernels_baseline(dtype, widens);
}

// parallel.run for a lambda.
template <class Body>
void run(Parallel parallel, int64_t count, int64_t grain, const Body& body) {
  parallel.run(
      count, grain,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<const Body*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

bool normalize(LayerNormTask& task, const LayerNormKernels& kernels, StencilTensors& tensors,
               Parallel parallel) {
  const DepthwiseConv2dLayerNormPlan& plan = task.plan;
  StencilHooks hooks;
  BlockHooks blocks = kernels.hooks;
  blocks.context = &task;
  if (plan.one_pass) hooks.blocks = &blocks;
  if (plan.widens) {
    // The hooks stand in for the tensors: what the strides say is the layout of the scratch memory.
    task.source_strides = tensors.source_strides;
    const int64_t channels = task.channels, width = plan.problem.width;
    tensors.source_strides = {0, 1, width * channels, channels};
    tensors.output_strides = {0, 1, plan.problem.out_width() * channels, channels};
  }
  if (!stencil_cpu(plan.problem, plan.convolution, tensors, parallel, hooks)) return false;
  if (!plan.one_pass) {
    const bool channels_last = tensors.output_strides.c == 1 && task.channels > 1;
    run(parallel, plan.units, 1,
        [&](int64_t begin, int64_t end) { kernels.second_pass(task, channels_last, begin, end); });
  }
  return true;
}

}  // namespace

bool layer_norm_cpu(LayerNormTask task, CpuIsa isa, StencilTensors tensors, Parallel parallel) {
  task.grad_output = nullptr;
  const LayerNormKernels& kernels = layer_norm_kernels(isa, task.dtype, task.plan.widens);
  return normalize(task, kernels, tensors, parallel);
}

bool layer_norm_backward_cpu(LayerNormTask task, CpuIsa isa, StencilTensors tensors,
                             void* grad_weight, void* grad_bias, Parallel parallel) {
  const int64_t element = task.dtype == DType::kFloat64 ? 8 : 4;
  // Written in full before it is read.
  task.partial = std::malloc(static_cast<size_t>(task.plan.units * 2 * task.channels * element));
  if (!task.partial) return false;
  const LayerNormKernels& kernels = layer_norm_kernels(isa, task.dtype, task.plan.widens);
  const bool done = normalize(task, kernels, tensors, parallel);
  if (done) {
    run(parallel, task.channels, 256, [&](int64_t begin, int64_t end) {
      kernels.reduce(task, grad_weight, grad_bias, begin, end);
    });
  }
  std::free(task.partial);
  return done;
}

}  // namespace effkern
