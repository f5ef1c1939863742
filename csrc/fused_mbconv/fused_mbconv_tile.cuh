// What a block of fused_mbconv works on: the tensors, its tile, and the weights on their way.
#pragma once

#include "common/ptx.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"
#include "fused_mbconv/fused_mbconv.h"

namespace effkern {

// Images are dense channels_last, expand_weight is [hidden][depth] with depth = [kernel_h]
// [kernel_w][channels], project_weight [out_channels][hidden], all aligned to 16 bytes, as is
// project_scale. Biases, scale and residual may be null.
template <typename T>
struct FusedMBConvImages {
  const T *input, *expand_weight, *expand_bias, *project_weight, *project_bias, *project_scale;
  const T* residual;
  T* output;
  int height, width, out_height, out_width;
  int channels, hidden, out_channels, depth;
  int kernel_w, stride_h, stride_w, pad_top, pad_left;
  Activation activation;
};

// FusedMBConvPlan's, see there.
struct FusedMBConvTiles {
  int tile_height, tile_width, input_height, phase;
  int pixel_pitch, row_pitch;
  int zeros, stages, biases, offsets, exchange;
  // Stages of a chunk of expanded channels, products of 16 pixels of depth, chunks.
  int slices, steps, chunks;
  Divisor by_tile_width, by_input_width, by_vectors, by_kernel_w, by_stride_w;
  Divisor by_tile_columns, by_tile_rows;
};

// Where a block's tile begins.
struct FusedMBConvPlace {
  int n, y, x;

  __device__ __forceinline__ explicit FusedMBConvPlace(const FusedMBConvTiles& tiles) {
    int column = blockIdx.x;
    int row = tiles.by_tile_columns.split(column);
    n = tiles.by_tile_rows.split(row);
    y = row * tiles.tile_height, x = column * tiles.tile_width;
  }
};

namespace detail {

// From the input tile's first element to column x of a row.
__device__ __forceinline__ int input_column(const FusedMBConvTiles& tiles, int x) {
  const int index = tiles.by_stride_w.split(x);
  return (x * tiles.phase + index) * tiles.pixel_pitch;
}

// Starts to copy the input of a tile; zeros where it is outside the image.
template <typename T>
__device__ __forceinline__ void stage_input(T* staged, const FusedMBConvImages<T>& p,
                                            const FusedMBConvTiles& tiles,
                                            const FusedMBConvPlace& at) {
  const int first_y = at.y * p.stride_h - p.pad_top, first_x = at.x * p.stride_w - p.pad_left;
  const T* const image = p.input + int64_t(at.n) * (p.height * p.width * p.channels);
  const int vectors = int(tiles.by_vectors.divisor);
  const int count = tiles.input_height * int(tiles.by_input_width.divisor) * vectors;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int vector = i;
    int x = tiles.by_vectors.split(vector);
    const int y = tiles.by_input_width.split(x);
    const int from_y = first_y + y, from_x = first_x + x;
    const bool valid =
        unsigned(from_y) < unsigned(p.height) && unsigned(from_x) < unsigned(p.width);
    const int from = valid ? (from_y * p.width + from_x) * p.channels + 8 * vector : 0;
    ptx::cp_async<16>(staged + y * tiles.row_pitch + input_column(tiles, x) + 8 * vector,
                      image + from, valid);
  }
}

// offsets[(4 * half + step) + 8 * slice] is where the eight products 8 half + 16 step + 64 slice of
// a pixel begin, from its own place in the tile; -1 past the last. A lane reads four steps at once.
template <typename T>
__device__ __forceinline__ void stage_offsets(int* offsets, const FusedMBConvImages<T>& p,
                                              const FusedMBConvTiles& tiles) {
  const int count = tiles.slices * (kFusedMBConvSlice / 8), octets = p.depth / 8;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int octet = i / 8 * 8 + i % 4 * 2 + i / 4 % 2;
    int vector = octet;
    int tap_x = tiles.by_vectors.split(vector);
    const int tap_y = tiles.by_kernel_w.split(tap_x);
    const int offset = tap_y * tiles.row_pitch + input_column(tiles, tap_x) + 8 * vector;
    store_shared_packed<1>(offsets + i, Packed<int, 1>{unsigned(octet < octets ? offset : -1)});
  }
}

// `count` numbers of a bias in float32, zeros past its end.
template <typename T>
__device__ __forceinline__ void stage_bias(float* staged, const T* bias, int size, int count) {
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const bool valid = bias != nullptr && i < size;
    float value[1];
    load_or_zero<1>(valid, bias + (valid ? i : 0)).widen_to(value);
    store_shared(staged + i, value[0]);
  }
}

}  // namespace detail

// The weights in the order in which they are multiplied: for each chunk of expanded channels,
// slices of the convolution's depth, then the projection's columns. 64 rows of 64 weights are a
// stage; vector v of row r lies at v ^ r % 8, so that eight rows lie in different banks.
template <typename T, int kOutputs>
class FusedMBConvWeights {
 public:
  // Of a chunk, those of the projection.
  static constexpr int kParts = (kOutputs + kFusedMBConvChunk - 1) / kFusedMBConvChunk;
  static constexpr int kPitch = kFusedMBConvSlice, kElements = kFusedMBConvChunk * kPitch;

  // Starts to copy the first stages; what was started before is part of the first.
  __device__ __forceinline__ FusedMBConvWeights(T* stages, const FusedMBConvImages<T>& p,
                                                const FusedMBConvTiles& tiles)
      : p_(p), tiles_(tiles), stages_(stages), row_(threadIdx.x / 8), vector_(threadIdx.x % 8) {
    to_ = row_ * kPitch + (vector_ ^ (row_ % 8)) * 8;
    for (int i = 0; i < kFusedMBConvStages - 1; ++i) copy();
  }

  // The next stage, which all threads may read until the next call.
  __device__ __forceinline__ const T* next() {
    ptx::cp_async_wait<kFusedMBConvStages - 2>();
    // Copies of other threads have landed, and all have read the stage before.
    __syncthreads();
    copy();
    const T* const stage = stages_ + read_ * kElements;
    read_ = read_ + 1 == kFusedMBConvStages ? 0 : read_ + 1;
    return stage;
  }

 private:
  __device__ __forceinline__ void copy() {
    if (chunk_ < tiles_.chunks) {
      if (kOutputs == 0 || slice_ < tiles_.slices) {
        copy(p_.expand_weight, p_.depth, p_.hidden - chunk_ * kFusedMBConvChunk,
             chunk_ * kFusedMBConvChunk, slice_ * kFusedMBConvSlice);
      } else {
        const int first = (slice_ - tiles_.slices) * kFusedMBConvChunk;
        copy(p_.project_weight, p_.hidden, p_.out_channels - first, first,
             chunk_ * kFusedMBConvSlice);
      }
      if (++slice_ == tiles_.slices + kParts) slice_ = 0, ++chunk_;
    }
    ptx::cp_async_commit();
    write_ = write_ + 1 == kFusedMBConvStages ? 0 : write_ + 1;
  }

  // 64 columns from `column` on of the rows from `first` on, of which there are `rows`. The second
  // half is not read where it has no row.
  __device__ __forceinline__ void copy(const T* weight, int pitch, int rows, int first,
                                       int column) {
    column += 8 * vector_;
    const int step = blockDim.x / 8, valid = column < pitch ? rows : 0;
    const T* from = weight + (int64_t(first + row_) * pitch + column);
    T* to = stages_ + write_ * kElements + to_;
    const int end = rows > kFusedMBConvChunk / 2 ? kFusedMBConvChunk : kFusedMBConvChunk / 2;
    // 32 rows are a multiple of twice the step.
#pragma unroll 1
    for (int row = row_; row < end; row += 2 * step) {
      ptx::cp_async<16>(to, from, row < valid);
      ptx::cp_async<16>(to + step * kPitch, from + step * pitch, row + step < valid);
      from += 2 * step * pitch;
      to += 2 * step * kPitch;
    }
  }

  const FusedMBConvImages<T>& p_;
  const FusedMBConvTiles& tiles_;
  T* const stages_;
  const int row_, vector_;
  int to_, chunk_ = 0, slice_ = 0, write_ = 0, read_ = 0;
};

}  // namespace effkern
