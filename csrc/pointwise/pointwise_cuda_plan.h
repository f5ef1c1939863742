// The problem (what to compute) and the plan (how) of pointwise on CUDA, as plain structs. No
// torch, no CUDA: shared by the planner, the CUDA kernel and effkern._C.
#pragma once

#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// output = residual + scale * activation(weight (gate * input) + bias) in each pixel. Bias and
// scale are numbers of an output channel, the gate of an image and an input channel. All images are
// channels_last.
struct PointwiseCudaProblem {
  DType dtype = DType::kFloat32;
  // `pixels` of each image.
  int64_t images = 1, pixels = 1, in_channels = 1, out_channels = 1;
  bool has_gate = false, has_residual = false;
  Activation activation = Activation::kNone;
};

// Products of each sum between two barriers, and how many such stages are in shared memory.
inline constexpr int kPointwiseSlice = 32;
inline constexpr int kPointwiseStages = 4;
// Warps of a block at most; it has 32 pixels for each. A warp computes 64 output channels, of 32
// pixels where the block has 64 channels and of 64 where it has 128.
inline constexpr int kPointwiseMostWarps = 8;
inline constexpr int kPointwiseWarpChannels = 64;
// Floats from half to half of a pixel's sums in shared memory, and from pixel to pixel.
inline constexpr int kPointwiseSumsHalf = 36;
inline constexpr int kPointwiseSumsPitch = 2 * kPointwiseSumsHalf;

struct PointwiseCudaPlan {
  // Why there is no kernel; null if there is one.
  const char* refusal = nullptr;
  int warps = 0;
  // Of a block.
  int tile_pixels = 0, tile_channels = 0;
  // Images that the pixels of a block may belong to; 0 without a gate.
  int gate_rows = 0;
  int64_t shared_memory = 0;
  int64_t grid = 0;
  // Compulsory traffic, and multiply-adds times two.
  int64_t bytes = 0, flops = 0;
};

// A pure function of the problem.
PointwiseCudaPlan plan_pointwise_cuda(const PointwiseCudaProblem& problem);

}  // namespace effkern
