// Convolution of contiguous 16-bit planes on tensor cores, for kernels of any shape up to 57 x 57:
// stride 1, dilation 1, one output per input channel.
//
// As in depthwise_conv2d_toeplitz_kernel.cuh, a kernel row is a Toeplitz matrix, here of 8 x
// kHalves rows. The kernel rows do not fit the registers: a strip has 8 rows, whose accumulators
// stay, and a window of 8 kernel rows rotates. Each input row brings one of them; it is loaded once
// and meets the 8 output rows. A block stages the panels of one channel and its taps for all of its
// warps; each takes whole strips.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_kernel.cuh"

namespace effkern {

inline constexpr int kToeplitzRows = 8;

// One input row's windows: for each pair of halves a fragment of 16 columns, then one of 8.
template <int kHalves>
__device__ __forceinline__ void load_windows(uint32_t (&a)[2 * kHalves], const void* left_or_right,
                                             const void* last) {
  const auto* from = static_cast<const uint16_t*>(left_or_right);
#pragma unroll
  for (int i = 0; i + 1 < kHalves; i += 2) {
    uint32_t four[4];
    ptx::ldmatrix(four, from + 8 * i);
#pragma unroll
    for (int j = 0; j < 4; ++j) a[2 * i + j] = four[j];
  }
  if constexpr (kHalves % 2) {
    uint32_t two[2];
    ptx::ldmatrix(two, last);
    a[2 * kHalves - 2] = two[0], a[2 * kHalves - 1] = two[1];
  }
}

// sums += windows times a kernel row's Toeplitz matrix.
template <typename T, int kHalves>
__device__ __forceinline__ void multiply_windows(float (&sums)[4], const uint32_t (&a)[2 * kHalves],
                                                 const uint32_t (&b)[kHalves]) {
#pragma unroll
  for (int i = 0; i + 1 < kHalves; i += 2) {
    const uint32_t four[4] = {a[2 * i], a[2 * i + 1], a[2 * i + 2], a[2 * i + 3]};
    const uint32_t two[2] = {b[i], b[i + 1]};
    ptx::mma_m16n8k16<T>(sums, four, two);
  }
  if constexpr (kHalves % 2) {
    const uint32_t two[2] = {a[2 * kHalves - 2], a[2 * kHalves - 1]};
    ptx::mma_m16n8k8<T>(sums, two, b[kHalves - 1]);
  }
}

template <typename T, int kHalves, typename Epilogue>
__global__ void __launch_bounds__(32 * kToeplitzWarps, kHalves == 8 ? 2 : 3)
    depthwise_conv2d_toeplitz_large_kernel(DepthwiseImages<T> p, ToeplitzTiles tiles, int kernel_h,
                                           int kernel_w, Epilogue epilogue) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kRows = kToeplitzRows, kThreads = 32 * kToeplitzWarps;
  // Taps, a row of zeros, the staged input.
  EFFKERN_DYNAMIC_SHARED(T, table);
  T* zeros = table + 2 * kernel_h * kTapPitch<kHalves>;
  T* staged = zeros + tiles.pitch;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;

  int group = blockIdx.x;
  int channel = group;
  group = tiles.by_channels.split(channel);
  int column_tile = group;
  group = tiles.by_column_tiles.split(column_tile);
  const int x_tile = column_tile * tiles.tile_columns;

  zero_shared(table, int(staged - table) + tiles.panels * tiles.panel_pitch, thread, kThreads);
  __syncthreads();
  stage_taps<kHalves>(table, p.weight + int64_t(channel) * (kernel_h * kernel_w), kernel_h,
                      kernel_w, p.flip_taps, tiles.shift, thread, kThreads);
  const float bias = epilogue.initial(channel);
  const T* input = p.input + channel * p.input_strides.c;
  T* output = p.output + channel * p.output_strides.c;
  const int stride_h = int(p.output_strides.h);
  // Of a warp at a time.
  const int windows = 16 / tiles.windows * tiles.windows;

#pragma unroll 1
  for (int round = 0; round < tiles.rounds; ++round) {
    const int first_panel = (group * tiles.rounds + round) * tiles.panels;
    if (first_panel >= tiles.panel_count) break;
    stage_panels(staged, p, tiles, input, first_panel, x_tile - tiles.lead, thread);
    ptx::cp_async_wait_all();
    __syncthreads();
    const int all_windows = tiles.panels * tiles.strips * tiles.windows;
#pragma unroll 1
    for (int first = warp * windows; first < all_windows; first += kToeplitzWarps * windows) {
      const ToeplitzWindow at(tiles, first + lane % 16);
      const bool there = lane % 16 < windows && at.panel < tiles.panels;
      const int column = at.x - tiles.first_output;
      const T* no_row = zeros + column;
      // Of staged rows: negative or past them where the row is outside the image.
      int row = at.strip * kRows - tiles.row_begin;
      const T* from = staged + at.panel * tiles.panel_pitch + row * tiles.pitch + column;
      const T* pairs = tap_pairs<kHalves>(table, lane);
      float sums[kRows][4] = {};
      uint32_t taps[kRows][kHalves];
      // Input row `begin + i` meets output row j at kernel row begin + i - j.
#pragma unroll 1
      for (int begin = 0; begin < kernel_h + kRows - 1; begin += kRows) {
#pragma unroll
        for (int i = 0; i < kRows; ++i, ++row, from += tiles.pitch) {
          if (begin + i < kernel_h) load_tap_fragments(pairs, taps[i]);
          pairs += 2 * kTapPitch<kHalves>;
          const bool inside = there && begin + i < kernel_h + kRows - 1 &&
                              unsigned(row) < unsigned(tiles.staged_rows);
          if (!__any_sync(0xffffffffu, inside)) continue;
          const T* windows_row = inside ? from : no_row;
          uint32_t a[2 * kHalves];
          load_windows<kHalves>(a, windows_row + lane / 16 * 8, windows_row + 8 * (kHalves - 1));
#pragma unroll
          for (int j = 0; j < kRows; ++j) {
            if (unsigned(begin + i - j) < unsigned(kernel_h)) {
              multiply_windows<T, kHalves>(sums[j], a, taps[(i - j + kRows) % kRows]);
            }
          }
        }
      }
      if (__any_sync(0xffffffffu, has_infinite_windows(sums))) {
        sum_taps<kHalves>(sums, staged, table, p, tiles, kernel_h, kernel_w, first, 0, lane);
      }
      if (epilogue.has_initial()) {
#pragma unroll
        for (int i = 0; i < 4 * kRows; ++i) sums[i / 4][i % 4] += bias;
      }
      if (epilogue.changes_values()) finish_sums(sums, epilogue, channel);
      constexpr int kNone = 1 << 20;
      const int g = lane / 4;
      const ToeplitzOutput<T> upper(p, tiles, output, first_panel, x_tile,
                                    g < windows ? first + g : kNone, lane);
      const ToeplitzOutput<T> lower(p, tiles, output, first_panel, x_tile,
                                    g + 8 < windows ? first + g + 8 : kNone, lane);
      if (tiles.paired) {
        upper.store_pairs(0, stride_h, sums, 0);
        lower.store_pairs(0, stride_h, sums, 2);
      } else {
        upper.store_singles(0, stride_h, sums, 0);
        lower.store_singles(0, stride_h, sums, 2);
      }
    }
    // The next panels overwrite what other warps may still read.
    __syncthreads();
  }
#endif
}

}  // namespace effkern
