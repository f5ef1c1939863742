// pointwise on tensor cores: a product of channels_last pixels, of all images one after the other,
// and the weight, with everything before and after it. 16-bit types.
//
// A warp computes 32 or 64 pixels times 64 output channels. The gate of a pixel's image is loaded
// as the pixel is, by ldmatrix, and multiplied with its fragment: so a block's pixels may belong to
// several images. The sums go through shared memory, so that a lane has 8 channels of a pixel.
#pragma once

#include "common/activation_16_bits.cuh"
#include "pointwise/pointwise_tile.cuh"

namespace effkern {
namespace detail {

// Products of 16 of a slice; tiles of 8 channels of a warp.
inline constexpr int kPointwiseSteps = kPointwiseSlice / 16;
inline constexpr int kPointwiseColumnTiles = kPointwiseWarpChannels / 8;

// The products of two pairs of 16-bit numbers.
template <typename T>
__device__ __forceinline__ uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  Pair x, y;
  memcpy(static_cast<void*>(&x), &a, sizeof(a));
  memcpy(static_cast<void*>(&y), &b, sizeof(b));
  x = __hmul2(x, y);
  memcpy(&a, static_cast<const void*>(&x), sizeof(a));
  return a;
}

// What a lane reads of a stage: its row of the first matrix of pixels and of weights, and of the
// gates of each matrix of pixels; elements from the stage's beginning to the first step's vector.
template <int kRowTiles, bool kGated>
struct PointwiseRows {
  int pixels, weights;
  int gates[kGated ? kRowTiles : 1];
};

// sums += step `step` of a stage.
template <typename T, int kRowTiles, bool kGated>
__device__ __forceinline__ void multiply_step(float (&sums)[kRowTiles][kPointwiseColumnTiles][4],
                                              const T* stage,
                                              const PointwiseRows<kRowTiles, kGated>& rows,
                                              int step) {
  constexpr int kTile = 16 * kPointwiseSlice;
  uint32_t a[kRowTiles][4];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    ptx::ldmatrix<4>(a[i], stage + (rows.pixels ^ (16 * step)) + i * kTile);
    if constexpr (kGated) {
      uint32_t gate[4];
      ptx::ldmatrix<4>(gate, stage + (rows.gates[i] ^ (16 * step)));
#pragma unroll
      for (int j = 0; j < 4; ++j) a[i][j] = multiply_pairs<T>(a[i][j], gate[j]);
    }
  }
#pragma unroll
  for (int pair = 0; pair < kPointwiseColumnTiles / 2; ++pair) {
    uint32_t b[4];
    ptx::ldmatrix<4>(b, stage + (rows.weights ^ (16 * step)) + pair * kTile);
    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      ptx::mma_m16n8k16<T>(sums[i][2 * pair], a[i], first);
      ptx::mma_m16n8k16<T>(sums[i][2 * pair + 1], a[i], second);
    }
  }
}

// Sums of 32 of a warp's pixels, from row tile `first` on, to its part of shared memory. Of a
// pixel, every other four channels are in the first half and the rest in the second: lanes of 8
// channels each then read from different banks.
template <int kRowTiles>
__device__ __forceinline__ void store_sums(float* mine,
                                           const float (&sums)[kRowTiles][kPointwiseColumnTiles][4],
                                           int first) {
  const int lane = threadIdx.x % 32;
  float* const to = mine + lane / 2 * kPointwiseSumsHalf + lane % 2 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < kPointwiseColumnTiles; ++j) {
      store_shared_packed<2>(to + 8 * i * kPointwiseSumsPitch + 4 * j,
                             pack<2, float>(sums[first + i / 2][j] + i % 2 * 2));
    }
  }
}

// Eight numbers of a vector, `otherwise` where there is none.
template <typename T>
__device__ __forceinline__ void load_channels(bool valid, const T* vector, int channel,
                                              float otherwise, float (&values)[8]) {
  valid = valid && vector != nullptr;
  load_or_zero<8>(valid, vector + (valid ? channel : 0)).widen_to(values);
#pragma unroll
  for (float& value : values) value = valid ? value : otherwise;
}

// What a lane's channels are multiplied by and added to, from `channel` on; not all may exist.
struct PointwiseChannels {
  int channel;
  float bias[8], scale[8];

  template <typename T>
  __device__ __forceinline__ PointwiseChannels(const PointwiseImages<T>& p, int channel)
      : channel(channel) {
    const bool exists = channel < p.out_channels;
    load_channels(exists, p.bias, channel, 0.f, bias);
    load_channels(exists, p.scale, channel, 1.f, scale);
  }
};

// 32 pixels of a warp, the lane's first one being `pixel`, from shared memory to their images.
template <typename T, bool kActivated>
__device__ __forceinline__ void store_pixels(const PointwiseImages<T>& p, const float* mine,
                                             int pixel, const PointwiseChannels& of) {
  // Residuals on their way at a time; fewer where each has code of many instructions.
  constexpr int kTogether = kActivated ? 2 : 4;
  const int lane = threadIdx.x % 32;
  const bool exists = of.channel < p.out_channels;
  const float* from = mine + lane / 8 * kPointwiseSumsPitch + lane % 8 * 4;
  const int64_t place = int64_t(pixel) * p.out_channels + of.channel;
  const T* residual = p.residual + (p.residual != nullptr ? place : 0);
  T* to = p.output + place;
#pragma unroll 1
  for (int i = 0; i < 8; i += kTogether) {
    Packed<T, 8> added[kTogether];
    bool valid[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      valid[j] = exists && pixel + 4 * (i + j) < p.pixels;
      added[j] = load_or_zero<8>(valid[j] && p.residual != nullptr,
                                 residual + j * (4 * int64_t(p.out_channels)));
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      float values[8], summand[8];
      load_shared<4, 4>(from + 4 * j * kPointwiseSumsPitch, values);
      load_shared<4, 4>(from + 4 * j * kPointwiseSumsPitch + kPointwiseSumsHalf, values + 4);
      added[j].widen_to(summand);
#pragma unroll
      for (int k = 0; k < 8; ++k) values[k] += of.bias[k];
      if constexpr (kActivated) activate_to_16_bits<T>(p.activation, values);
#pragma unroll
      for (int k = 0; k < 8; ++k) values[k] = values[k] * of.scale[k] + summand[k];
      store_if<8>(valid[j], to + j * (4 * int64_t(p.out_channels)), values);
    }
    from += 4 * kTogether * kPointwiseSumsPitch;
    residual += 4 * kTogether * int64_t(p.out_channels);
    to += 4 * kTogether * int64_t(p.out_channels);
  }
}

}  // namespace detail

// kChannels output channels of a block, 64 or 128.
template <typename T, int kChannels, bool kGated, bool kActivated>
__global__ void __launch_bounds__(32 * kPointwiseMostWarps, kChannels == 64 ? 2 : 1)
    pointwise_kernel(PointwiseImages<T> p, PointwiseTiles tiles) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using namespace detail;
  constexpr int kAcross = kChannels / kPointwiseWarpChannels, kPixels = 32 * kAcross;
  constexpr int kRowTiles = kPixels / 16, kPitch = kPointwiseSlice;
  EFFKERN_DYNAMIC_SHARED(T, staged);
  const PointwisePlace<kChannels> at(tiles);
  PointwiseStages<T, kChannels, kGated> stages(staged, p, tiles, at);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_pixel = warp / kAcross * kPixels;
  const int first_channel = warp % kAcross * kPointwiseWarpChannels;
  // Of 128 channels, the second half of the warps may have none; they copy and wait only.
  const bool computes = at.channel + first_channel < p.out_channels;
  // Rows of matrices: lanes 0 to 15 have the first eight products of a step, the others the second;
  // of weights, every other eight lanes.
  PointwiseRows<kRowTiles, kGated> rows;
  const int swizzle = lane % 8 / 2;
  rows.pixels = (first_pixel + lane % 16) * kPitch + ((lane / 16) ^ swizzle) * 8;
  rows.weights = (int(blockDim.x) + first_channel + lane / 16 * 8 + lane % 8) * kPitch +
                 ((lane / 8 % 2) ^ swizzle) * 8;
  if constexpr (kGated) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const int pixel = min(at.pixel + first_pixel + 16 * i + lane % 16, p.pixels - 1);
      const int row = tiles.by_image_pixels.quotient(pixel) - at.image;
      rows.gates[i] =
          (int(blockDim.x) + kChannels + row) * kPitch + ((lane / 16) ^ (row / 2 % 4)) * 8;
    }
  }

  float sums[kRowTiles][kPointwiseColumnTiles][4] = {};
#pragma unroll 1
  for (int slice = 0; slice < tiles.slices; ++slice) {
    const T* const stage = stages.next();
    const int left = p.in_channels - slice * kPointwiseSlice;
#pragma unroll
    for (int step = 0; step < kPointwiseSteps; ++step) {
      if (computes && 16 * step < left) multiply_step<T>(sums, stage, rows, step);
    }
  }
  // All warps have read the stages, which the sums take the place of.
  __syncthreads();
  if (!computes) return;
  float* const mine = reinterpret_cast<float*>(staged) + warp * (32 * kPointwiseSumsPitch);
  const PointwiseChannels of(p, at.channel + first_channel + lane % 8 * 8);
#pragma unroll
  for (int first = 0; first < kRowTiles; first += 2) {
    // All lanes have read the pixels before.
    if (first > 0) __syncwarp();
    store_sums(mine, sums, first);
    __syncwarp();
    store_pixels<T, kActivated>(p, mine, at.pixel + first_pixel + 16 * first + lane / 8, of);
  }
#endif
}

}  // namespace effkern
