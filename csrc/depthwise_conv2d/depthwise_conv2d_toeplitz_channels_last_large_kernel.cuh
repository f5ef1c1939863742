// Convolution of channels_last images of 16-bit types on tensor cores, for kernels of up to 21 x 17
// taps: stride 1, dilation 1, one output per input channel.
//
// Tiles are transposed in shared memory as in depthwise_conv2d_toeplitz_channels_last_kernel.cuh. A
// window's input has 8 * kHalves columns, and the kernel rows do not fit the registers: a window of
// 7 of them rotates. Kernels have a multiple of 7 rows, some of them zeros, so that every product
// with a row outside the kernel is left out by the compiler.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_channels_last_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_large_kernel.cuh"

namespace effkern {

// The kernel; its rows in shared memory, a multiple of 7. Words of a row of tap pairs, and rows
// of a channel, divide the number of a pair.
struct ToeplitzBlockTaps {
  int kernel_h, kernel_w, rows;
  SmallDivisor by_words, by_rows;
};

// Of which any kZeros are followed by as many as a window has.
template <int kHalves>
inline constexpr int kBlockZeros = kZeros + 16 * (kHalves - 2);

namespace detail {

// Of the block's channels, zeros past the last channel and row. The caller synchronises.
template <typename T>
__device__ __forceinline__ void stage_tap_rows(T* pairs, const DepthwiseImages<T>& p,
                                               const ToeplitzBlockTaps& taps, int first_channel) {
  const int count = taps.kernel_h * taps.kernel_w;
  const int words = kToeplitzBlockChannels * taps.rows * (taps.kernel_w + 2);
  // All threads take as many turns: warps stay together.
#pragma unroll 2
  for (int first = 0; first < words; first += 32 * kToeplitzBlockWarps) {
    const int i = first + threadIdx.x;
    int d = i;
    int ky = taps.by_words.split(d);
    const int channel = first_channel + taps.by_rows.split(ky);
    --d;
    const bool there = i < words && channel < p.channels && ky < taps.kernel_h;
    const T* weight = p.weight + int64_t(channel) * count;
    const int tap = ky * taps.kernel_w + d;
    const T* low = weight + (p.flip_taps ? count - 1 - tap : tap);
    const unsigned left = load_or_zero<1>(there && unsigned(d) < unsigned(taps.kernel_w), low).bits;
    const unsigned right = load_or_zero<1>(there && unsigned(d + 1) < unsigned(taps.kernel_w),
                                           p.flip_taps ? low - 1 : low + 1)
                               .bits;
    if (i < words) store_shared_packed<2>(pairs + 2 * i, Packed<T, 2>{left | right << 16});
  }
}

// As convolve_plane, for taps.rows rows of taps; `zeros` are kBlockZeros elements.
template <int kHalves, typename T, typename Epilogue>
__device__ __forceinline__ void convolve_large_plane(
    T* plane, const T* pairs, const T* zeros, const DepthwiseImages<T>& p,
    const ToeplitzBlocks& tiles, const ToeplitzBlockTaps& taps, const ToeplitzBlockPlace& place,
    const ToeplitzBlockWindow& at, const Epilogue& epilogue, int channel, int lane) {
  constexpr int kRows = kToeplitzBlockRows;
  const float initial = epilogue.initial(channel);
  float sums[kRows][4];
#pragma unroll
  for (int i = 0; i < 4 * kRows; ++i) sums[i / 4][i % 4] = initial;
  // The lane's pairs of a kernel row.
  const int words = taps.kernel_w + 2;
  int offsets[kHalves];
#pragma unroll
  for (int i = 0; i < kHalves; ++i) {
    const int d = 2 * (lane % 4) - lane / 4 + 8 * i;
    offsets[i] = 2 * (d < -1 || d > taps.kernel_w ? words - 1 : d + 1);
  }
  uint32_t b[kRows][kHalves];
  const auto load_taps = [&](int i) {
#pragma unroll
    for (int j = 0; j < kHalves; ++j) b[i][j] = load_shared_packed<2>(pairs + offsets[j]).bits;
    pairs += 2 * words;
  };
  // Lane l gives the address of window l % 16, of its left (l < 16) or right half; of the last half
  // those of the lower lanes count. Where all rows are in the same banks, so are the zeros.
  const T* from = plane + at.offset + lane / 16 * 8;
  const T* no_row = zeros + int((from - zeros) & (kZeros - 1));
  int y = at.y;
  uint32_t a[2 * kHalves];
  const auto load_row = [&] {
    const T* row = unsigned(y) < unsigned(p.height) ? from : no_row;
    load_windows<kHalves>(a, row, row + 8 * (kHalves - 1));
    ++y, from += tiles.pitch;
  };
  const T* const first_pairs = pairs;

  // Input row i meets output row j at kernel row i - j: first those with kernel rows before the
  // first, then all, then those with kernel rows past the last.
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    load_taps(i);
    load_row();
#pragma unroll
    for (int j = 0; j <= i; ++j) multiply_windows<T, kHalves>(sums[j], a, b[i - j]);
  }
#pragma unroll 1
  for (int begin = kRows; begin < taps.rows; begin += kRows) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      load_taps(i);
      load_row();
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        multiply_windows<T, kHalves>(sums[j], a, b[(i - j + kRows) % kRows]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows - 1; ++i) {
    load_row();
#pragma unroll
    for (int j = i + 1; j < kRows; ++j) {
      multiply_windows<T, kHalves>(sums[j], a, b[i - j + kRows]);
    }
  }
  finish_plane(plane, sums, first_pairs, taps.kernel_h, taps.kernel_w, p, tiles, place, initial,
               epilogue, channel, lane);
}

}  // namespace detail

template <typename T, int kHalves, typename Epilogue>
__global__ void __launch_bounds__(32 * kToeplitzBlockWarps, 4)
    depthwise_conv2d_toeplitz_channels_last_large_kernel(DepthwiseImages<T> p, ToeplitzBlocks tiles,
                                                         ToeplitzBlockTaps taps,
                                                         Epilogue epilogue) {
  // The launcher takes other kernels on older devices.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  // Zeros, taps, what the warps are reading, planes.
  EFFKERN_DYNAMIC_SHARED(T, zeros);
  T* pairs = zeros + kBlockZeros<kHalves>;
  const int channel_pairs = 2 * taps.rows * (taps.kernel_w + 2);
  T* raw = pairs + kToeplitzBlockChannels * channel_pairs;
  T* planes = raw + kToeplitzBlockWarps * detail::kStagedPairs * detail::kPairPitch;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  const ToeplitzBlockPlace place(tiles, p, blockIdx.x);
  zero_shared(zeros, kBlockZeros<kHalves>, threadIdx.x, 32 * kToeplitzBlockWarps);
  detail::stage_tap_rows(pairs, p, taps, place.first_channel);
  detail::stage_channels(planes, raw + warp * detail::kStagedPairs * detail::kPairPitch, p, tiles,
                         place, warp, lane);
  __syncthreads();
  const ToeplitzBlockWindow window(tiles, p, place, lane % 16);
#pragma unroll 1
  for (int c = warp; c < kToeplitzBlockChannels; c += kToeplitzBlockWarps) {
    if (place.first_channel + c >= p.channels) break;
    detail::convolve_large_plane<kHalves>(planes + detail::plane_offset(tiles, c),
                                          pairs + c * channel_pairs, zeros, p, tiles, taps, place,
                                          window, epilogue, place.first_channel + c, lane);
  }
  __syncthreads();
  detail::store_channels(planes, p, tiles, place, warp, lane);
#endif
}

}  // namespace effkern
