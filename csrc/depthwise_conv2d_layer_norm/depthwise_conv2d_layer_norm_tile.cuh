// What a block of depthwise_conv2d_layer_norm works on, and the sums of its pixels over channels.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_plan.h"

namespace effkern {

// DepthwiseConv2dLayerNormCudaPointers, see there.
template <typename T>
struct LayerNormImages {
  const T *input, *weight, *bias;
  const float *norm_weight, *norm_bias;
  T* output;
  float *mean, *rstd;
  int channels, height, width, out_height, out_width;
  int pad_top, pad_left;
  float eps, per_channel;
};

// DepthwiseConv2dLayerNormCudaPlan, see there.
struct LayerNormTiles {
  int lanes, group, slots;
  int strips, row_tiles, rows, items;
  int weights;
};

// The work of one thread: some channels of a strip of columns, `rows` rows of one image.
struct LayerNormItem {
  int slot, channel, n, first_row, first_column, rows;
  // The thread has channels of a strip that exists; else it has no rows and joins the sums.
  bool valid;

  template <typename T>
  __device__ __forceinline__ LayerNormItem(const LayerNormImages<T>& p, const LayerNormTiles& tiles,
                                           int channels, int pixels) {
    slot = threadIdx.x / tiles.lanes;
    channel = (threadIdx.x - slot * tiles.lanes) * channels;
    int item = blockIdx.x * tiles.slots + slot;
    valid = slot < tiles.slots && item < tiles.items && channel < p.channels;
    if (!valid) item = channel = 0;
    first_column = item % tiles.strips * pixels;
    first_row = item / tiles.strips % tiles.row_tiles * tiles.rows;
    n = item / tiles.strips / tiles.row_tiles;
    rows = valid ? min(tiles.rows, p.out_height - first_row) : 0;
  }
};

// Weights as [tap][channel].
template <int kTaps, typename Weight, typename T>
__device__ __forceinline__ void stage_weights(Weight* staged, const T* weight, int channels) {
  for (int c = threadIdx.x; c < channels; c += blockDim.x) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      const float value = load_scalar(weight + int64_t(c) * kTaps + tap);
      store_shared_packed(staged + tap * channels + c, pack<1, Weight>(&value));
    }
  }
}

// The sums of a strip's pixels over all channels, where `sums` are those of the thread's. `shared`
// holds one of each slot, group and pixel; all threads of the block call it, and nobody writes
// there between another barrier and the sums' last use.
template <int kPixels>
__device__ __forceinline__ void sum_over_channels(float (&sums)[kPixels], const LayerNormItem& item,
                                                  const LayerNormTiles& tiles, float* shared) {
  const int lane = threadIdx.x % 32;
  // Neighbours exchange half of their pixels, until each has one.
  int pixel = 0, mask = 1;
#pragma unroll
  for (int half = kPixels / 2; half > 0; half /= 2, mask *= 2) {
    const bool upper = lane & mask;
    pixel += upper ? half : 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? sums[i] : sums[i + half];
      sums[i] = (upper ? sums[i + half] : sums[i]) + __shfl_xor_sync(0xffffffffu, given, mask);
    }
  }
#pragma unroll
  for (; mask < 32; mask *= 2) {
    if (mask < tiles.group) sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], mask);
  }
  const int groups = tiles.lanes / tiles.group;
  if (lane % tiles.group < kPixels && item.slot < tiles.slots) {
    store_shared(shared + int(threadIdx.x) / tiles.group * kPixels + pixel, sums[0]);
  }
  __syncthreads();
  // Threads beyond the last strip read what is the first one's.
  const float* from = shared + (item.slot < tiles.slots ? item.slot * groups * kPixels : 0);
#pragma unroll
  for (float& sum : sums) sum = 0.f;
#pragma unroll 1
  for (int i = 0; i < groups; ++i, from += kPixels) {
    float added[kPixels];
    load_shared<kPixels, kPixels>(from, added);
#pragma unroll
    for (int j = 0; j < kPixels; ++j) sums[j] += added[j];
  }
}

}  // namespace effkern
