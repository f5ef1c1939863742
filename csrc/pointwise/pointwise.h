// A 1x1 convolution with everything that follows it, on CPU: scale and shift per channel,
// activation, residual; and before it a gate per image and channel, a shift and an activation. No
// torch.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

struct PointwiseProblem {
  DType dtype;
  // `pixels` of each image.
  int64_t images, pixels, in_channels, out_channels;
  // Neighbouring channels of a pixel are adjacent; else neighbouring pixels of a channel.
  bool input_channels_last, output_channels_last;
  // The last pixel of an image is followed by the first of the next one.
  bool adjacent_images;
  bool has_gate, has_prologue;
  // The weights are, before the call.
  bool packed;
};

struct PointwisePlan {
  // The images are one long one.
  bool merges_images = false;
  // The gate is multiplied into the weights of an image, else into its pixels.
  bool gates_weight = false;
  // The kernels read rows of float32 as they are; else a block of pixels is first copied.
  bool copies_input = false;
  // Pixels that a unit of work has, with one panel of output channels.
  int64_t block_pixels = 0;
};

// A pure function.
PointwisePlan plan_pointwise(const PointwiseProblem& problem, CpuIsa isa, int threads);

}  // namespace effkern
