// The problem (what to compute) and the plan (how) of depthwise_conv2d_layer_norm on CUDA, as plain
// structs. No torch, no CUDA: shared by the planner, the CUDA kernel and effkern._C.
#pragma once

#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// A convolution with stride 1 and dilation 1, one output per input channel. All images are dense
// channels_last.
struct DepthwiseConv2dLayerNormCudaProblem {
  DType dtype = DType::kFloat32;
  int64_t batch = 1, channels = 1, height = 1, width = 1;
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;

  int64_t out_height() const { return height + pad_top + pad_bottom - kernel_h + 1; }
  int64_t out_width() const { return width + pad_left + pad_right - kernel_w + 1; }
};

// Threads of a block at most: all channels of a pixel belong to one block.
inline constexpr int kLayerNormMostThreads = 256;
// A thread has so many outputs of a row at a time: neighbouring channels of neighbouring pixels.
inline constexpr int kLayerNormOutputs = 16;

// Bytes from vector to vector of weights in shared memory: no even number of 16 bytes, so that
// eight neighbours lie in different banks.
constexpr int layer_norm_pitch(int taps, int channels, int bytes) {
  const int vector = taps * channels * bytes;
  return vector % 32 ? vector : vector + 16;
}

struct DepthwiseConv2dLayerNormCudaPlan {
  // Why there is no kernel; null if there is one.
  const char* refusal = nullptr;
  // Of a thread: neighbouring channels, and pixels of a strip.
  int channels = 0, pixels = 0;
  // Threads of a strip, a multiple of 8, of which `group` neighbours add up by shuffles.
  int lanes = 0, group = 0;
  // Strips of a block, and its threads.
  int slots = 0, threads = 0;
  // Of an image: strips across, tiles of so many rows down.
  int strips = 0, row_tiles = 0, rows = 0;
  // The weights are in the tensors' 16 bits in shared memory, not in float32.
  bool narrow_weights = false;
  // In shared memory the weights come after the sums of groups, at this byte.
  int weights = 0;
  int64_t shared_memory = 0;
  int64_t grid = 0;
  // Compulsory traffic, and multiply-adds of the convolution times two, padding included.
  int64_t bytes = 0, flops = 0;
};

// A pure function of the problem.
DepthwiseConv2dLayerNormCudaPlan plan_depthwise_conv2d_layer_norm_cuda(
    const DepthwiseConv2dLayerNormCudaProblem& problem);

}  // namespace effkern
