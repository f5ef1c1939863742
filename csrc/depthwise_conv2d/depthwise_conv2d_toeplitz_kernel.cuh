// Convolution of contiguous 16-bit planes on tensor cores, k x k with k = 5, 7 or 9, stride 1,
// dilation 1, one output per input channel.
//
// For one row of the kernel, 8 neighbouring outputs of a row are the product of the 16 inputs
// around them with a 16 x 8 Toeplitz matrix B[i][j] = tap[i - j - shift]. The 16 rows of an
// m16n8k16 product are 16 windows of 8 outputs, in one row, in several strips of rows or in several
// images. A warp walks down its strips: the fragment of an input row is loaded once and multiplied
// with the Toeplitz matrices of all k kernel rows, which stay in registers, into the k output rows
// that it touches, whose accumulators rotate. Warps do not depend on each other.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_hooks.cuh"

namespace effkern {

inline constexpr int kToeplitzWarps = 4;

// One input row times all kernel rows; sums[i] is begun, sums[(i + 1) % k] is completed.
template <typename T, int kKernel>
__device__ __forceinline__ void multiply_row(float (&sums)[kKernel][4], int i, const T* from,
                                             const uint32_t (&taps)[kKernel][2]) {
  uint32_t a[4];
  ptx::ldmatrix(a, from);
#pragma unroll
  for (float& sum : sums[i]) sum = 0.f;
#pragma unroll
  for (int ky = kKernel - 1; ky >= 0; --ky) {
    ptx::mma_m16n8k16<T>(sums[(i - ky + kKernel) % kKernel], a, taps[ky]);
  }
}

// Blocks on an SM, by registers.
template <int kKernel, typename Epilogue>
inline constexpr int kToeplitzBlocks =
    kKernel == 9 || (kKernel == 7 && is_hooked<Epilogue>) ? 3 : 4;

template <typename T, int kKernel, typename Epilogue>
__global__ void __launch_bounds__(32 * kToeplitzWarps, kToeplitzBlocks<kKernel, Epilogue>)
    depthwise_conv2d_toeplitz_kernel(DepthwiseImages<T> p, ToeplitzTiles tiles, Epilogue epilogue) {
  // The launcher takes other kernels on older devices.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kHalves = 2, kTable = 2 * kKernel * kTapPitch<kHalves>;
  // Of each warp: taps, then the staged input.
  EFFKERN_DYNAMIC_SHARED(T, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int group = blockIdx.x * tiles.warps + warp;
  if (group >= tiles.jobs) return;
  T* table = shared + warp * (kTable + tiles.panels * tiles.panel_pitch);
  T* staged = table + kTable;

  int channel = group;
  group = tiles.by_channels.split(channel);
  int column_tile = group;
  group = tiles.by_column_tiles.split(column_tile);
  const int x_tile = column_tile * tiles.tile_columns;

  zero_shared(table, kTable + tiles.panels * tiles.panel_pitch, lane, 32);
  __syncwarp();
  stage_taps<kHalves>(table, p.weight + int64_t(channel) * (kKernel * kKernel), kKernel, kKernel,
                      p.flip_taps, tiles.shift, lane, 32);
  const float bias = epilogue.initial(channel);
  __syncwarp();
  const T* pairs = tap_pairs<kHalves>(table, lane);

  // Lane l gives the address of row l % 16 of the fragment's left (l < 16) or right half. What is
  // not there is row 0.
  ToeplitzWindow at(tiles, lane % 16);
  if (at.panel >= tiles.panels) at.panel = at.strip = 0;
  const T* fragments = staged + at.panel * tiles.panel_pitch +
                       (at.strip * tiles.rows - tiles.row_begin) * tiles.pitch +
                       (at.x - tiles.first_output) + lane / 16 * 8;
  const T* input = p.input + channel * p.input_strides.c;
  T* output = p.output + channel * p.output_strides.c;
  const int stride_h = int(p.output_strides.h);

#pragma unroll 1
  for (int round = 0; round < tiles.rounds; ++round) {
    const int first_panel = (group * tiles.rounds + round) * tiles.panels;
    if (first_panel >= tiles.panel_count) break;
    stage_panels(staged, p, tiles, input, first_panel, x_tile - tiles.lead, lane);
    ptx::cp_async_wait_all();
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.has_prologue) {
        transform_panels(staged, p, tiles, epilogue, channel, first_panel, x_tile - tiles.lead,
                         lane);
      }
    }
    __syncwarp();
    const ToeplitzOutput<T> upper(p, tiles, output, first_panel, x_tile, lane / 4, lane);
    const ToeplitzOutput<T> lower(p, tiles, output, first_panel, x_tile, lane / 4 + 8, lane);
    float sums[kKernel][4] = {};
    [[maybe_unused]] ToeplitzSums stored;
    const T* from = fragments - tiles.pitch;
    // Groups of kKernel input rows; all but the first complete as many output rows.
#pragma unroll 1
    for (int first = -kKernel; first < tiles.rows; first += kKernel) {
      // Input row begin + i begins the output row of its number and completes output row first + i.
      const int begin = first + kKernel - 1, end = begin + kKernel;
      // Again for each group: the registers are needed in between.
      uint32_t taps[kKernel][kHalves];
#pragma unroll
      for (int ky = 0; ky < kKernel; ++ky) {
        load_tap_fragments(pairs + 2 * ky * kTapPitch<kHalves>, taps[ky]);
      }
      float done[kKernel][4];
      // Row -1 is what precedes the strip in shared memory; no output of the strip meets it.
      if (begin >= (tiles.row_begin ? tiles.row_begin : -1) && end <= tiles.row_end) {
#pragma unroll
        for (int i = 0; i < kKernel; ++i, from += tiles.pitch) {
          multiply_row<T>(sums, i, from, taps);
#pragma unroll
          for (int j = 0; j < 4; ++j) done[i][j] = sums[(i + 1) % kKernel][j];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kKernel; ++i, from += tiles.pitch) {
          if (begin + i >= tiles.row_begin && begin + i < tiles.row_end) {
            multiply_row<T>(sums, i, from, taps);
          } else {
#pragma unroll
            for (float& sum : sums[i]) sum = 0.f;
          }
#pragma unroll
          for (int j = 0; j < 4; ++j) done[i][j] = sums[(i + 1) % kKernel][j];
        }
      }
      if (first < 0) continue;
      if (__any_sync(0xffffffffu, has_infinite_windows(done))) {
        sum_taps<kHalves>(done, staged, table, p, tiles, kKernel, kKernel, 0, first, lane);
      }
      if (epilogue.has_initial()) {
#pragma unroll
        for (int i = 0; i < 4 * kKernel; ++i) done[i / 4][i % 4] += bias;
      }
      // A way of its own for most: no registers are moved for the sake of the others.
      if (!is_hooked<Epilogue> && tiles.paired && !epilogue.changes_values()) {
        upper.store_pairs(first, stride_h, done, 0);
        lower.store_pairs(first, stride_h, done, 2);
        continue;
      }
      finish_sums(done, epilogue, channel);
      if constexpr (is_hooked<Epilogue>) {
        if (epilogue.moments > 0) {
          stored.add(0, upper, first, done);
          stored.add(1, lower, first, done);
        }
      }
      if (tiles.paired) {
        upper.store_pairs(first, stride_h, done, 0);
        lower.store_pairs(first, stride_h, done, 2);
      } else {
        upper.store_singles(first, stride_h, done, 0);
        lower.store_singles(first, stride_h, done, 2);
      }
    }
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.moments > 0) {
        stored.reduce(epilogue, tiles, channel, p.channels, first_panel, column_tile, lane);
      }
    }
    // The next panels overwrite what other lanes may still read.
    __syncwarp();
  }
#endif
}

}  // namespace effkern
