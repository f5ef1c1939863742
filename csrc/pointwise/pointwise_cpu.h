// CPU backend of pointwise: what its driver hands to the kernels, which are compiled once per
// instruction set. No torch, no standard library types.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"
#include "pointwise/pointwise.h"

namespace effkern {

// An image per `image`, a pixel per `pixel`, a channel per `channel` elements.
struct PointwiseStrides {
  int64_t image, pixel, channel;
};

// Rows of in_channels adjacent elements, `stride` from one to the next.
struct PointwiseWeight {
  const void* data;
  int64_t stride, in_channels, out_channels;
};

struct PointwiseTask {
  PointwiseProblem problem;
  PointwisePlan plan;
  const void* input;
  PointwiseStrides input_strides;
  // Rows of in_channels adjacent elements, or null if they are packed.
  const void* weight;
  int64_t weight_stride;
  // What `pack` made of the weights, or null.
  const void* packed;
  // One number per output channel, without gaps, or null.
  const void *scale, *shift;
  // [images][in_channels], or null; what is added to the gated input, [in_channels], or null.
  const void *gate, *input_shift;
  // With problem.has_prologue: of the gated and shifted input.
  Activation input_activation;
  // With the layout of the output, or null.
  const void* residual;
  PointwiseStrides residual_strides;
  void* output;
  PointwiseStrides output_strides;
  Activation activation;
};

struct PointwiseKernels {
  // Output channels of a panel of packed weights.
  int panel;
  // Elements of float32 that a thread needs.
  int64_t (*scratch)(const PointwiseTask& task);
  // Panels [begin, end) of the weights to packed[panels][in_channels][panel], in their own type;
  // scratch is for a panel of float32.
  void (*pack)(const PointwiseWeight& weight, DType dtype, int64_t begin, int64_t end, void* packed,
               float* scratch);
  // Units [begin, end): blocks of pixels, image by image, and of each all panels.
  void (*run)(const PointwiseTask& task, int64_t begin, int64_t end, float* scratch);
  // For squeeze-and-excitation: factor * from, rounded; and sigmoid, or hardsigmoid, in place,
  // times `scale`, one per channel, if there is one.
  void (*round)(const float* from, float factor, void* to, DType dtype, int64_t count);
  void (*gate)(void* values, DType dtype, int64_t rows, int64_t channels, bool hard,
               const void* scale);
};

const PointwiseKernels& pointwise_kernels_baseline();
const PointwiseKernels& pointwise_kernels_avx2();
const PointwiseKernels& pointwise_kernels_avx512();
const PointwiseKernels& pointwise_kernels(CpuIsa isa);

// False if scratch memory could not be allocated.
bool pack_pointwise_cpu(const PointwiseWeight& weight, DType dtype, CpuIsa isa, void* packed,
                        Parallel parallel);

// The same; `task` has all but the plan.
bool pointwise_cpu(PointwiseTask task, CpuIsa isa, int threads, Parallel parallel);

}  // namespace effkern
