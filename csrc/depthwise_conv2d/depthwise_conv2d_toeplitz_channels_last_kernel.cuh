// Convolution of channels_last images of 16-bit types on tensor cores, k x k with k <= 9, stride 1,
// dilation 1, one output per input channel.
//
// The products want pixels of one channel side by side, memory has channels of one pixel. A block
// transposes a tile of 16 channels, whole 32-byte sectors, on its way into shared memory and on its
// way out: 8 pixels times 8 channels at a time, which ldmatrix does. Each pixel has an address of
// its own there, so that windows start at any column and no padding is special.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_hooks.cuh"

namespace effkern {
namespace detail {

// Pairs of units, 16 pixels times 16 channels, that a warp has under way at a time.
inline constexpr int kStagedPairs = 4;
// Elements of one as it was read: [half of the channels][pixel], the halves so far apart that 4
// pixels of both are in different banks.
inline constexpr int kHalfPitch = 16 * 8 + 32, kPairPitch = kHalfPitch + 16 * 8;

// Of a channel's plane. The 8 channels of one half and those that one matrix of a store takes are
// in different banks: plane_pitch is an odd number of units.
__device__ __forceinline__ int plane_offset(const ToeplitzBlocks& tiles, int channel) {
  return channel * tiles.plane_pitch + channel / 8 * 16;
}

// Reads the block's panels into its planes, zeros outside the image. `raw` is the warp's. The
// caller synchronises.
template <typename T>
__device__ __forceinline__ void stage_channels(T* planes, T* raw, const DepthwiseImages<T>& p,
                                               const ToeplitzBlocks& tiles,
                                               const ToeplitzBlockPlace& place, int warp,
                                               int lane) {
  const int half = lane % 2;
  const int count = place.panels * tiles.staged_rows * tiles.unit_pairs;
  const int x_first = place.x - p.pad_left + lane / 2;
  // Of columns inside the image, which are none where the channels are not there.
  const unsigned width = place.first_channel + 8 * half < p.channels ? p.width : 0;
  const int stride_n = int(p.input_strides.n), stride_h = int(p.input_strides.h),
            stride_w = int(p.input_strides.w);
  const T* input = p.input + (int64_t(place.n) * stride_n + int64_t(place.staged_row) * stride_h +
                              place.first_channel + 8 * half);
  T* put = raw + half * kHalfPitch + lane / 2 * 8;
  const T* get = raw + lane / 8 % 2 * kHalfPitch + (lane % 8 + lane / 16 * 8) * 8;
  T* low = planes + plane_offset(tiles, lane / 4) + lane % 4 * 2;
  T* high = planes + plane_offset(tiles, lane / 4 + 8) + lane % 4 * 2;
#pragma unroll 1
  for (int first = kStagedPairs * warp; first < count;
       first += kStagedPairs * kToeplitzBlockWarps) {
    int places[kStagedPairs];
    bool whole[kStagedPairs];
#pragma unroll
    for (int i = 0; i < kStagedPairs; ++i) {
      int pair = first + i;
      const bool there = pair < count;
      int row = tiles.by_unit_pairs.split(pair);
      const int panel = tiles.by_staged_rows.split(row);
      places[i] = panel * tiles.panel_pitch + row * tiles.pitch + 16 * pair;
      whole[i] = 2 * pair + 1 < tiles.units;
      const int x = x_first + 16 * pair;
      const bool inside = there && unsigned(x) < width;
      const int offset = panel * stride_n + row * stride_h + x * stride_w;
      ptx::cp_async<16>(put + i * kPairPitch, input + offset, inside);
    }
    ptx::cp_async_wait_all();
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kStagedPairs; ++i) {
      // Of 8 pixels: channels 0 to 7, 8 to 15; of the next 8 pixels.
      uint32_t r[4];
      ptx::ldmatrix<4, true>(r, get + i * kPairPitch);
      if (first + i < count) {
        store_shared_packed<2>(low + places[i], Packed<T, 2>{r[0]});
        store_shared_packed<2>(high + places[i], Packed<T, 2>{r[1]});
        if (whole[i]) {
          store_shared_packed<2>(low + places[i] + 8, Packed<T, 2>{r[2]});
          store_shared_packed<2>(high + places[i] + 8, Packed<T, 2>{r[3]});
        }
      }
    }
    // The next ones overwrite what other lanes may still read.
    __syncwarp();
  }
}

// Stores the outputs that lie in the planes. A lane has 4 neighbouring channels of a pixel, 4 lanes
// have its 16.
template <typename T>
__device__ __forceinline__ void store_channels(const T* planes, const DepthwiseImages<T>& p,
                                               const ToeplitzBlocks& tiles,
                                               const ToeplitzBlockPlace& place, int warp,
                                               int lane) {
  // Lane l gives the address of row l % 8 of matrix l / 8: a matrix has channels 0, 1, 4, 5, ... or
  // 2, 3, 6, 7, ... of one window.
  const int channel = lane % 8 / 2 * 4 + lane / 8 % 2 * 2 + lane % 2;
  const int own = place.first_channel + 4 * (lane % 4);
  const int columns = own < p.channels ? min(tiles.tile_columns, p.out_width - place.x) : 0;
  const int stride_n = int(p.output_strides.n), stride_h = int(p.output_strides.h),
            stride_w = int(p.output_strides.w);
  T* output = p.output + (int64_t(place.n) * stride_n + int64_t(place.row) * stride_h +
                          int64_t(place.x) * stride_w + own);
#pragma unroll 1
  for (int first = 2 * warp; first < 16; first += 2 * kToeplitzBlockWarps) {
    const T* from = planes + plane_offset(tiles, channel) + (first + lane / 16) * 8;
    int to[2], rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const ToeplitzBlockWindow at(tiles, p, place, first + i);
      const int x = at.column + lane / 4;
      rows[i] = at.there && x < columns ? p.out_height - at.row : 0;
      to[i] = at.panel * stride_n + (at.row - place.row) * stride_h + x * stride_w;
    }
#pragma unroll
    for (int i = 0; i < kToeplitzBlockRows; ++i) {
      uint32_t r[4];
      ptx::ldmatrix<4, true>(r, from + kToeplitzOutputPitch * i);
      if (i < rows[0]) ptx::store_global(output + to[0], uint2{r[0], r[1]});
      if (i < rows[1]) ptx::store_global(output + to[1], uint2{r[2], r[3]});
      to[0] += stride_h, to[1] += stride_h;
    }
  }
}

}  // namespace detail

template <typename T, int kKernel, typename Epilogue>
__global__ void __launch_bounds__(32 * kToeplitzBlockWarps, 4)
    depthwise_conv2d_toeplitz_channels_last_kernel(DepthwiseImages<T> p, ToeplitzBlocks tiles,
                                                   Epilogue epilogue) {
  // The launcher takes other kernels on older devices.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  // Zeros, taps, what the warps are reading, planes.
  EFFKERN_DYNAMIC_SHARED(T, zeros);
  T* pairs = zeros + kZeros;
  T* raw = pairs + kToeplitzBlockChannels * 2 * kTapPairs<kKernel>;
  T* planes = raw + kToeplitzBlockWarps * detail::kStagedPairs * detail::kPairPitch;
  // Nothing is read there any more.
  [[maybe_unused]] float* window_sums = reinterpret_cast<float*>(raw);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  const ToeplitzBlockPlace place(tiles, p, blockIdx.x);
  zero_shared(zeros, kZeros, threadIdx.x, 32 * kToeplitzBlockWarps);
  stage_tap_pairs<kKernel>(pairs, p, place.first_channel);
  detail::stage_channels(planes, raw + warp * detail::kStagedPairs * detail::kPairPitch, p, tiles,
                         place, warp, lane);
  __syncthreads();
  const ToeplitzBlockWindow window(tiles, p, place, lane % 16);
#pragma unroll 1
  for (int c = warp; c < kToeplitzBlockChannels; c += kToeplitzBlockWarps) {
    if (place.first_channel + c >= p.channels) break;
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.has_prologue) {
        transform_plane(planes + detail::plane_offset(tiles, c), p, tiles, place, epilogue,
                        place.first_channel + c, lane);
        __syncwarp();
      }
    }
    convolve_plane<kKernel>(planes + detail::plane_offset(tiles, c),
                            pairs + c * 2 * kTapPairs<kKernel>, zeros, p, tiles, place, window,
                            epilogue, place.first_channel + c, lane);
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.moments > 0) {
        sum_windows(window_sums + c * kWindowSums, planes + detail::plane_offset(tiles, c), p,
                    tiles, place, lane);
      }
    }
  }
  __syncthreads();
  if constexpr (is_hooked<Epilogue>) {
    if (epilogue.moments > 0) reduce_windows(window_sums, epilogue, p, tiles, place);
  }
  detail::store_channels(planes, p, tiles, place, warp, lane);
#endif
}

}  // namespace effkern
