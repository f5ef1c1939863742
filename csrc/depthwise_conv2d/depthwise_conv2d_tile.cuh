// How the specialised depthwise kernels cut their work, and how they bring it into shared memory.
#pragma once

#include "common/vec.cuh"
#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

inline constexpr int kDepthwiseThreads = 128;

// n / divisor for 0 <= n < 2^31 without a division.
struct Divisor {
  unsigned divisor, magic;
  int shift;

  __device__ __forceinline__ int quotient(int n) const {
    return int((uint64_t(unsigned(n)) * magic) >> shift);
  }
  // Replaces n by its remainder.
  __device__ __forceinline__ int split(int& n) const {
    const int q = quotient(n);
    n -= q * int(divisor);
    return q;
  }
};

// Shapes of a specialised launch: square taps, dilation 1, one output per input channel.
template <typename T>
struct DepthwiseImages {
  const T* input;
  // [channels][taps]
  const T* weight;
  T* output;
  Strides4 input_strides, output_strides;
  int batch, channels, height, width, out_height, out_width;
  // Negative in an input gradient whose padding exceeds the kernel.
  int pad_top, pad_left;
  bool flip_taps;
};

// A channels_last launch. A work item is a strip of columns and `rows` rows of one image. A block
// takes `vectors` neighbouring channel vectors of as many items as it has threads for; channel
// blocks are innermost in the grid, so that blocks that share cache lines run together.
struct ChannelsLastTiles {
  int channel_blocks, vectors;
  int strips, row_tiles, rows;
  int items;
};

template <typename T, int kKernel>
struct ChannelsLastShape {
  // 16 bytes, but 8 for wide kernels of 16-bit types: a longer strip of fewer channels has as many
  // accumulators and reads each weight from shared memory half as often.
  static constexpr int kChannels = sizeof(T) == 2 && kKernel <= 3 ? 8 : 4;
  static constexpr int kOutputs = 16;
  static constexpr int kMaxVectors = 32;
};

// The work of one thread of a channels_last launch.
struct ChannelsLastItem {
  int first_channel, vector, channel, n, row_tile, strip;
  bool valid;

  __device__ __forceinline__ ChannelsLastItem(const ChannelsLastTiles& tiles, int width_of_vector,
                                              int channels) {
    const int slots = blockDim.x / tiles.vectors, slot = threadIdx.x / tiles.vectors;
    const int item = blockIdx.x / tiles.channel_blocks * slots + slot;
    first_channel = blockIdx.x % tiles.channel_blocks * tiles.vectors * width_of_vector;
    vector = threadIdx.x % tiles.vectors;
    channel = first_channel + vector * width_of_vector;
    valid = slot < slots && item < tiles.items && channel < channels;
    strip = item % tiles.strips;
    row_tile = item / tiles.strips % tiles.row_tiles;
    n = item / tiles.strips / tiles.row_tiles;
  }
};

// Weights of a channels_last block as [tap][channel]. Ends with a barrier.
template <int kTaps, int kPitch, typename T>
__device__ __forceinline__ void stage_weights(float (&staged)[kTaps][kPitch], const T* weight,
                                              int channels, bool flip) {
  for (int c = threadIdx.x; c < channels; c += blockDim.x) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      store_shared(&staged[flip ? kTaps - 1 - tap : tap][c],
                   load_scalar(weight + int64_t(c) * kTaps + tap));
    }
  }
  __syncthreads();
}

}  // namespace effkern
