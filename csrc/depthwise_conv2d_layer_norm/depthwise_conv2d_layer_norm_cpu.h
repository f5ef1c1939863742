// CPU backend of depthwise_conv2d_layer_norm: what its driver hands to the kernels, which are
// compiled once per instruction set. No torch, no standard library types. A stands for the
// accumulation type (float, or double for double).
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm.h"

namespace effkern {

// Of the forward, or, with `grad_output`, of the backward.
struct LayerNormTask {
  DepthwiseConv2dLayerNormPlan plan;
  // Of the tensors.
  DType dtype;
  int64_t batch, channels, pixels;
  // A each, without gaps.
  const void *weight, *bias;
  double eps;
  // A, one per pixel of each image: written by the forward, read by the backward.
  void *mean, *rstd;
  // [units][2][channels] of A: the partial sums of the gradients of weight and bias.
  void* partial;
  // Null in the forward. As `output` dense, (batch, pixels, channels) or (batch, channels, pixels).
  const void* grad_output;
  // The forward's result, or the gradient of the convolution's. Two passes: the convolution's
  // result before, in A.
  void* output;
  // One pass with plan.widens: the image.
  const void* source;
  Strides4 source_strides;
};

struct LayerNormKernels {
  // One pass: hooks of the direct kernels, whose context is a LayerNormTask.
  BlockHooks hooks;
  // Two passes: units [begin, end).
  void (*second_pass)(const LayerNormTask& task, bool channels_last, int64_t begin, int64_t end);
  // Adds the partial sums of channels [begin, end) in ascending order, to A.
  void (*reduce)(const LayerNormTask& task, void* grad_weight, void* grad_bias, int64_t begin,
                 int64_t end);
};

const LayerNormKernels& layer_norm_kernels_baseline(DType dtype, bool widens);
const LayerNormKernels& layer_norm_kernels_avx2(DType dtype, bool widens);
const LayerNormKernels& layer_norm_kernels_avx512(DType dtype, bool widens);

// Both return false if scratch memory could not be allocated. `convolution` has the tensors of the
// convolution in the plan's dtype, or, with plan.widens, those of the call with weight and bias in
// float32. The backward computes the convolution again.
bool layer_norm_cpu(LayerNormTask task, CpuIsa isa, StencilTensors convolution, Parallel parallel);
bool layer_norm_backward_cpu(LayerNormTask task, CpuIsa isa, StencilTensors convolution,
                             void* grad_weight, void* grad_bias, Parallel parallel);

}  // namespace effkern
