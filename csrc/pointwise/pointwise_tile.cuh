// What a block of pointwise works on: the tensors, its tile, and their way to shared memory.
#pragma once

#include "common/ptx.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"
#include "pointwise/pointwise_cuda_plan.h"

namespace effkern {

// PointwiseCudaPointers, see there.
template <typename T>
struct PointwiseImages {
  const T *input, *weight, *bias, *gate, *scale, *residual;
  T* output;
  // `pixels` of all images.
  int images, pixels, in_channels, out_channels;
  Activation activation;
};

struct PointwiseTiles {
  // Of the input channels.
  int slices;
  int gate_rows;
  // Elements of a stage.
  int stage;
  Divisor by_channel_tiles, by_image_pixels;
};

// Where a block's tile begins. Neighbouring blocks have the same pixels. A block of 32 pixels for
// each warp has as many as threads.
template <int kChannels>
struct PointwisePlace {
  int pixel, channel, image;

  __device__ __forceinline__ explicit PointwisePlace(const PointwiseTiles& tiles) {
    channel = blockIdx.x;
    pixel = tiles.by_channel_tiles.split(channel) * int(blockDim.x);
    channel *= kChannels;
    image = tiles.by_image_pixels.quotient(pixel);
  }
};

// The operands in slices of 32 input channels: the tile's pixels, its rows of the weight, the gates
// of its images. Vector v of row r lies at v ^ r / 2 % 4, so that eight rows lie in different
// banks.
template <typename T, int kChannels, bool kGated>
class PointwiseStages {
 public:
  static constexpr int kPitch = kPointwiseSlice;

  // Starts to copy the first stages.
  __device__ __forceinline__ PointwiseStages(T* stages, const PointwiseImages<T>& p,
                                             const PointwiseTiles& tiles,
                                             const PointwisePlace<kChannels>& at)
      : p_(p), tiles_(tiles), at_(at), stages_(stages), row_(threadIdx.x / 4) {
    const int vector = threadIdx.x % 4;
    column_ = 8 * vector;
    to_ = row_ * kPitch + (vector ^ (row_ / 2 % 4)) * 8;
    const auto from = [&](const T* matrix, int row) {
      return matrix + (int64_t(row + row_) * p.in_channels + column_);
    };
    pixels_ = from(p.input, at.pixel);
    weights_ = from(p.weight, at.channel);
    if constexpr (kGated) gates_ = from(p.gate, at.image);
    for (int i = 0; i < kPointwiseStages - 1; ++i) copy();
  }

  // The next stage, which all threads may read until the next call.
  __device__ __forceinline__ const T* next() {
    ptx::cp_async_wait<kPointwiseStages - 2>();
    // Copies of other threads have landed, and all have read the stage before.
    __syncthreads();
    copy();
    const T* const stage = stages_ + read_ * tiles_.stage;
    read_ = (read_ + 1) % kPointwiseStages;
    return stage;
  }

 private:
  __device__ __forceinline__ void copy() {
    if (slice_ < tiles_.slices) {
      const bool exists = column_ < p_.in_channels;
      T* const to = stages_ + write_ * tiles_.stage + to_;
      copy<4>(to, pixels_, exists ? p_.pixels - at_.pixel : 0, blockDim.x);
      copy<2>(to + blockDim.x * kPitch, weights_, exists ? p_.out_channels - at_.channel : 0,
              kChannels);
      pixels_ += kPitch, weights_ += kPitch;
      if constexpr (kGated) {
        const int images = exists ? p_.images - at_.image : 0;
        copy<1>(to + (blockDim.x + kChannels) * kPitch, gates_, images, tiles_.gate_rows);
        gates_ += kPitch;
      }
      column_ += kPitch, ++slice_;
    }
    ptx::cp_async_commit();
    write_ = (write_ + 1) % kPointwiseStages;
  }

  // `rows` rows, of which the first `valid` are there; zeros for the others. A thread copies
  // kTogether at a time; it has 4 of pixels and from 2 to 8 of weights.
  template <int kTogether>
  __device__ __forceinline__ void copy(T* to, const T* from, int valid, int rows) {
    const int step = blockDim.x / 4, pitch = step * p_.in_channels;
#pragma unroll 1
    for (int row = row_; row < rows; row += kTogether * step) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        ptx::cp_async<16>(to, from, row + i * step < valid);
        from += pitch, to += step * kPitch;
      }
    }
  }

  const PointwiseImages<T>& p_;
  const PointwiseTiles& tiles_;
  const PointwisePlace<kChannels>& at_;
  T* const stages_;
  const int row_;
  const T *pixels_, *weights_, *gates_;
  int to_, column_, slice_ = 0, write_ = 0, read_ = 0;
};

}  // namespace effkern
