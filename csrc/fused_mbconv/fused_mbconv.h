// The problem (what to compute) and the plan (how) of fused_mbconv, as plain structs. No torch, no
// CUDA: shared by the planner, the CUDA kernel and effkern._C.
#pragma once

#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// output = project(activation(expand(input))) + residual: a dense convolution to `hidden` channels
// with dilation 1, and a 1x1 convolution. Without a projection out_channels is `hidden`. All
// images are channels_last.
struct FusedMBConvProblem {
  DType dtype = DType::kFloat32;
  int64_t batch = 1, in_channels = 1, height = 1, width = 1, hidden = 1, out_channels = 1;
  bool has_projection = true, has_residual = false;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
  Activation activation = Activation::kNone;

  int64_t out_height() const { return (height + pad_top + pad_bottom - kernel_h) / stride_h + 1; }
  int64_t out_width() const { return (width + pad_left + pad_right - kernel_w) / stride_w + 1; }
  int64_t pixels() const { return batch * out_height() * out_width(); }
  // Products that one number of the expanded tensor is the sum of.
  int64_t depth() const { return kernel_h * kernel_w * in_channels; }
};

// Pixels of a warp, and warps of a block at most: two blocks fill the registers of a
// multiprocessor, so that one multiplies while the other copies, activates or stores.
inline constexpr int kFusedMBConvRows = 32;
inline constexpr int kFusedMBConvMostWarps = 4;
// Expanded channels that a block computes at a time, and how many products of each between two
// barriers: 64 x 64 weights are a stage, of which some are in shared memory.
inline constexpr int kFusedMBConvChunk = 64;
inline constexpr int kFusedMBConvSlice = 64;
inline constexpr int kFusedMBConvStages = 3;
// Most output channels of a projection: they are held in registers.
inline constexpr int kFusedMBConvMostOutputs = 96;
// Floats from row to row where a warp turns its accumulators into pixels, 32 channels at a time.
inline constexpr int kFusedMBConvExchangePitch = 40;

// How the CUDA kernel computes a problem. A block takes tile_height x tile_width pixels of one
// image, at most 32 of each warp. Offsets and pitches are in elements of 16 bits.
struct FusedMBConvPlan {
  // Why there is no kernel; null if there is one.
  const char* refusal = nullptr;
  int warps = 0;
  int tile_height = 0, tile_width = 0;
  // The input of a tile: rows and columns. Column x of it lies at x % stride_w * phase + x /
  // stride_w, so that neighbouring outputs read neighbours.
  int input_height = 0, input_width = 0, phase = 0;
  int pixel_pitch = 0, row_pitch = 0;
  // Of the projection's accumulators: 64, 96, or 0 without a projection.
  int outputs = 0;
  // Places in shared memory; the input tile is at 0.
  int zeros = 0, stages = 0, biases = 0, offsets = 0, exchange = 0;
  int64_t shared_memory = 0;
  int64_t grid = 0;
  // Compulsory traffic, and multiply-adds times two, padding included.
  int64_t bytes = 0, flops = 0;
};

// A pure function of the problem.
FusedMBConvPlan plan_fused_mbconv(const FusedMBConvProblem& problem);

}  // namespace effkern
