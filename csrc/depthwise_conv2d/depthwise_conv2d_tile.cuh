// How the specialised depthwise kernels cut their work, and how they bring it into shared memory.
#pragma once

#include "common/ptx.cuh"
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

// A contiguous launch. A block computes `planes` planes' tile of 4 * groups rows and 4 * strips
// columns, 4 x 4 outputs per thread, from input staged in shared memory as float,
// [plane][row][pitch]. Input column x0 of the tile is at `lead`, a multiple of 4 that leaves room
// for aligned vectors which start before it.
struct ContiguousTiles {
  int planes, groups, strips;
  int plane_blocks, row_tiles, column_tiles;
  // Of the staged input.
  int rows, columns, pitch, lead;
  // Elements per access to a row of the input and of the output, 4 or 1; with 4, every row is made
  // of whole aligned vectors.
  int load_width, store_width;
  // Threads that share a staged row: 1 << lane_bits.
  int lane_bits;
};

// The work of one block and thread of a contiguous launch. Column tiles are innermost in the grid.
struct ContiguousItem {
  int plane_block, row_tile, column_tile;
  int plane, group, strip;

  __device__ __forceinline__ ContiguousItem(const ContiguousTiles& tiles, int tile)
      : plane_block(tile / tiles.column_tiles / tiles.row_tiles),
        row_tile(tile / tiles.column_tiles % tiles.row_tiles),
        column_tile(tile % tiles.column_tiles),
        plane(int(threadIdx.x) / tiles.strips / tiles.groups),
        group(int(threadIdx.x) / tiles.strips % tiles.groups),
        strip(int(threadIdx.x) % tiles.strips) {}
};

namespace detail {

template <int kWidth, typename PlaneAddress>
__device__ __forceinline__ void stage_tile(float* staged, const ContiguousTiles& tiles,
                                           PlaneAddress plane_address, int64_t stride_h, int y0,
                                           int x0, int height, int width) {
  const int lanes = 1 << tiles.lane_bits, row_step = int(blockDim.x) >> tiles.lane_bits;
  // Rounds down, also below zero.
  const int first = x0 & -kWidth;
  const int vectors = (x0 + tiles.columns - first + kWidth - 1) / kWidth;
  for (int row = threadIdx.x >> tiles.lane_bits; row < tiles.planes * tiles.rows; row += row_step) {
    const int plane = row / tiles.rows, y = y0 + row - plane * tiles.rows;
    const auto* from = plane_address(plane);
    const bool inside = from != nullptr && unsigned(y) < unsigned(height);
    float* to = staged + row * tiles.pitch + tiles.lead - x0;
    for (int i = threadIdx.x & (lanes - 1); i < vectors; i += lanes) {
      const int x = first + i * kWidth;
      const bool valid = inside && unsigned(x) < unsigned(width);
      float values[kWidth];
      load_or_zero<kWidth>(valid, valid ? from + y * stride_h + x : from).widen_to(values);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) store_shared(to + x + j, values[j]);
    }
  }
}

}  // namespace detail

// Copies rows y0... and columns x0... of the block's planes to shared memory, zeros outside the
// image. plane_address(i) is the block's i-th plane, or null past the last. The caller
// synchronises.
template <typename PlaneAddress>
__device__ __forceinline__ void stage_tile(float* staged, const ContiguousTiles& tiles,
                                           PlaneAddress plane_address, int64_t stride_h, int y0,
                                           int x0, int height, int width) {
  // Rows of 112, 56 or 28 pixels allow vectors of 4, rows of 14 or 7 allow none.
  if (tiles.load_width == 4) {
    detail::stage_tile<4>(staged, tiles, plane_address, stride_h, y0, x0, height, width);
  } else {
    detail::stage_tile<1>(staged, tiles, plane_address, stride_h, y0, x0, height, width);
  }
}

// Stages the tile of the block's planes, which are first_plane... in (image, channel) order.
template <typename T>
__device__ __forceinline__ void stage_planes(float* staged, const DepthwiseImages<T>& p,
                                             const ContiguousTiles& tiles, int first_plane, int y0,
                                             int x0) {
  stage_tile(
      staged, tiles,
      [&](int i) -> const T* {
        const int plane = first_plane + i;
        if (plane >= p.batch * p.channels) return nullptr;
        return p.input + plane / p.channels * p.input_strides.n +
               plane % p.channels * p.input_strides.c;
      },
      p.input_strides.h, y0, x0, p.height, p.width);
}

// Weights of the same planes as [plane][kPitch].
template <int kTaps, int kPitch, typename T>
__device__ __forceinline__ void stage_plane_weights(float* weights, const DepthwiseImages<T>& p,
                                                    int first_plane, int planes) {
  for (int i = threadIdx.x; i < planes * kTaps; i += blockDim.x) {
    const int plane = i / kTaps, tap = i % kTaps;
    if (first_plane + plane >= p.batch * p.channels) break;
    const int c = (first_plane + plane) % p.channels;
    store_shared(weights + plane * kPitch + (p.flip_taps ? kTaps - 1 - tap : tap),
                 load_scalar(p.weight + int64_t(c) * kTaps + tap));
  }
}

// Stores values[i] to row[x + i], i < 4, where that is inside the row. One vector where the plan
// allows it.
template <typename T>
__device__ __forceinline__ void store_four(T* row, int x, int width, const float* values,
                                           int store_width EFFKERN_SITE) {
  if (store_width == 4 && x >= 0 && x + 4 <= width) {
    // Up to sm_90, nvcc takes an ordinary vector store of interleaved sums apart.
    ptx::store_global(row + x, pack<4, T>(values).bits EFFKERN_PASS_SITE);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    store_if<1>(unsigned(x + i) < unsigned(width), row + x + i, values + i EFFKERN_PASS_SITE);
  }
}

}  // namespace effkern
