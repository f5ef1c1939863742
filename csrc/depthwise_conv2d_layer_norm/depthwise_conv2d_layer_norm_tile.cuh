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
  int group, groups, slots;
  int rows, items;
  int weights;
  Divisor by_lanes, by_group, by_strips, by_row_tiles;
};

// The work of one thread: some channels of a strip of columns, `rows` rows of one image.
struct LayerNormItem {
  int slot, channel, n, first_row, first_column, rows;
  // The thread has channels of a strip that exists; else it has no rows and joins the sums.
  bool valid;

  template <typename T>
  __device__ __forceinline__ LayerNormItem(const LayerNormImages<T>& p, const LayerNormTiles& tiles,
                                           int channels, int pixels) {
    channel = threadIdx.x;
    slot = tiles.by_lanes.split(channel);
    channel *= channels;
    int item = blockIdx.x * tiles.slots + slot;
    valid = slot < tiles.slots && item < tiles.items && channel < p.channels;
    if (!valid) item = channel = 0;
    first_row = tiles.by_strips.split(item);
    first_column = item * pixels;
    n = tiles.by_row_tiles.split(first_row);
    first_row *= tiles.rows;
    rows = valid ? min(tiles.rows, p.out_height - first_row) : 0;
  }
};

// Weights as [vector][tap][channel of it]. Neighbouring vectors begin in different banks, and a
// thread's taps lie at offsets that are known when the kernel is compiled.
template <int kTaps, int kChannels, typename Weight>
inline constexpr int kLayerNormPitch =
    layer_norm_pitch(kTaps, kChannels, sizeof(Weight)) / sizeof(Weight);

template <int kTaps, int kChannels, typename Weight, typename T>
__device__ __forceinline__ void stage_weights(Weight* staged, const T* weight, int channels) {
  for (int c = threadIdx.x; c < channels; c += blockDim.x) {
    Weight* const to =
        staged + c / kChannels * kLayerNormPitch<kTaps, kChannels, Weight> + c % kChannels;
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      const float value = load_scalar(weight + int64_t(c) * kTaps + tap);
      store_shared_packed(to + tap * kChannels, pack<1, Weight>(&value));
    }
  }
}

// Sums of a strip's pixels over all channels: neighbouring threads add up by shuffles, their groups
// through shared memory.
template <int kPixels>
class ChannelSumsOfStrip {
 public:
  // `shared` holds 2 x kPixels floats for each group of a block.
  __device__ __forceinline__ ChannelSumsOfStrip(const LayerNormTiles& tiles,
                                                const LayerNormItem& item, float* shared)
      : group_(tiles.group), groups_(tiles.groups) {
    // Of a group, the first threads hold one pixel each.
    int lane = threadIdx.x;
    to_ = shared + tiles.by_group.split(lane) * kPixels;
    to_ += kPixels == 4 ? 2 * (lane & 1) + (lane >> 1 & 1) : lane & 1;
    writes_ = lane < kPixels && item.slot < tiles.slots;
    // Threads beyond the last strip read what is the first one's.
    from_ = shared + (item.slot < tiles.slots ? item.slot * groups_ * kPixels : 0);
    half_ = tiles.slots * groups_ * kPixels;
  }

  // Of what each thread has, by all threads of the block: kHalf is 0 and 1 in turn, so that nobody
  // still reads what is written.
  template <int kHalf>
  __device__ __forceinline__ void add_up(float (&sums)[kPixels]) const {
    // Neighbours exchange half of their pixels, until each has one.
    const int lane = threadIdx.x % 32;
    int mask = 1;
#pragma unroll
    for (int half = kPixels / 2; half > 0; half /= 2, mask *= 2) {
      const bool upper = lane & mask;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const float given = upper ? sums[i] : sums[i + half];
        sums[i] = (upper ? sums[i + half] : sums[i]) + __shfl_xor_sync(0xffffffffu, given, mask);
      }
    }
#pragma unroll
    for (; mask < 32; mask *= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, sums[0], mask);
      sums[0] += mask < group_ ? other : 0.f;
    }
    if (writes_) store_shared(to_ + kHalf * half_, sums[0]);
    __syncthreads();
    const float* from = from_ + kHalf * half_;
    load_shared<kPixels, kPixels>(from, sums);
#pragma unroll 1
    for (int i = 1; i < groups_; ++i) {
      from += kPixels;
      float added[kPixels];
      load_shared<kPixels, kPixels>(from, added);
#pragma unroll
      for (int j = 0; j < kPixels; ++j) sums[j] += added[j];
    }
  }

 private:
  int group_, groups_, half_;
  bool writes_;
  float* to_;
  const float* from_;
};

}  // namespace effkern
