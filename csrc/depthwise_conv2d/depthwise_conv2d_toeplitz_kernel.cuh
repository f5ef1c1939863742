// Convolution of contiguous 16-bit planes on tensor cores, k x k with k = 5, 7 or 9, stride 1,
// dilation 1, one output per input channel.
//
// For one row of the kernel, 8 neighbouring outputs of a row are the product of the 16 inputs around
// them with a 16 x 8 Toeplitz matrix B[i][j] = tap[i - j - shift]. The 16 rows of an m16n8k16 product
// are 16 windows of 8 outputs, in one row, in several strips of rows or in several images. A warp
// walks down its strips: the fragment of an input row is loaded once and multiplied with the
// Toeplitz matrices of all k kernel rows, which stay in registers, into the k output rows that it
// touches, whose accumulators rotate. Warps do not depend on each other.
//
// Products with the zeros of a Toeplitz matrix are NaN where the input is infinite or NaN, which
// must not reach its neighbours: outputs that are NaN are computed again, tap by tap.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_store.cuh"

namespace effkern {

inline constexpr int kToeplitzWarps = 4;
inline constexpr int kToeplitzSlotBytes = 16 * 16;

// run[i] where it is NaN, from the staged input and taps.
template <int kHalves, typename T>
struct ToeplitzRepair {
  const T *staged, *table;
  int kernel_h, kernel_w, pad_left;
  const ToeplitzTiles& tiles;

  __device__ __forceinline__ void operator()(float* run, int begin, int end, int columns, int slot,
                                             int row) const {
    const int panel = tiles.by_strips.split(slot);
    row += slot * tiles.rows - tiles.row_begin;
#pragma unroll 1
    for (int i = begin; i < end; ++i) {
      const float value = load_shared(run + i);
      if (value == value) continue;
      const int y = row + i / columns, x = i % columns - pad_left + tiles.lead;
      float sum = 0.f;
#pragma unroll 1
      for (int ky = 0; ky < kernel_h; ++ky) {
        if (unsigned(y + ky) >= unsigned(tiles.staged_rows)) continue;
        const T* from = staged + panel * tiles.panel_pitch + (y + ky) * tiles.pitch + x;
        const T* taps = table + 2 * ky * kTapPitch<kHalves> + 8 + tiles.shift;
#pragma unroll 1
        for (int kx = 0; kx < kernel_w; ++kx) {
          float pixel[1], tap[1];
          load_shared_packed<1>(from + kx).widen_to(pixel);
          load_shared_packed<1>(taps + kx).widen_to(tap);
          sum = fmaf(pixel[0], tap[0], sum);
        }
      }
      store_shared(run + i, sum);
    }
  }
};

// `count` elements, a multiple of 8.
template <typename T>
__device__ __forceinline__ void zero_shared(T* to, int count, int thread, int threads) {
  for (int i = 8 * thread; i < count; i += 8 * threads) {
    store_shared_packed<8>(to + i, Packed<T, 8>::zero());
  }
}

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

template <typename T, int kKernel, typename Epilogue>
__global__ void __launch_bounds__(32 * kToeplitzWarps, kKernel == 9 ? 4 : 5)
    depthwise_conv2d_toeplitz_kernel(DepthwiseImages<T> p, ToeplitzTiles tiles,
                                     Epilogue epilogue) {
  constexpr int kHalves = 2, kTable = 2 * kKernel * kTapPitch<kHalves>;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  // Of each warp: strips, taps, staged input, finished outputs.
  EFFKERN_DYNAMIC_SHARED(unsigned char, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int group = blockIdx.x * tiles.warps + warp;
  if (group >= tiles.jobs) return;
  unsigned char* own = shared + warp * tiles.warp_bytes;
  int* described = reinterpret_cast<int*>(own);
  T* table = reinterpret_cast<T*>(own + kToeplitzSlotBytes);
  T* staged = table + kTable;
  float* finished = reinterpret_cast<float*>(own + tiles.finished_bytes);

  int channel = group;
  group = tiles.by_channels.split(channel);
  int column_tile = group;
  group = tiles.by_column_tiles.split(column_tile);
  const int x_tile = column_tile * tiles.tile_columns, slots = tiles.slots();

  zero_shared(table, kTable + tiles.panels * tiles.panel_pitch, lane, 32);
  __syncwarp();
  stage_taps<kHalves>(table, p.weight + int64_t(channel) * (kKernel * kKernel), kKernel, kKernel,
                      p.flip_taps, tiles.shift, lane, 32);
  const float bias = epilogue.initial(channel);
  __syncwarp();
  uint32_t taps[kKernel][kHalves];
  const T* pairs = tap_pairs<kHalves>(table, lane);
#pragma unroll
  for (int ky = 0; ky < kKernel; ++ky) {
    load_tap_fragments(pairs + 2 * ky * kTapPitch<kHalves>, taps[ky]);
  }

  // Lane l gives the address of row l % 16 of the fragment's left (l < 16) or right half.
  int window = lane % 16;
  int slot = tiles.by_windows.split(window);
  if (slot >= slots) slot = window = 0;
  int strip = slot;
  const int panel = tiles.by_strips.split(strip);
  const T* fragments = staged + panel * tiles.panel_pitch +
                       (strip * tiles.rows - tiles.row_begin) * tiles.pitch + 8 * window +
                       lane / 16 * 8;
  const T* input = p.input + channel * p.input_strides.c;
  T* output = p.output + channel * p.output_strides.c;
  const int stride_h = int(p.output_strides.h);
  const int columns = min(tiles.tile_columns, p.out_width - x_tile);

#pragma unroll 1
  for (int round = 0; round < tiles.rounds; ++round) {
    const int first_panel = (group * tiles.rounds + round) * tiles.panels;
    if (first_panel >= tiles.panel_count) break;
    stage_panels(staged, p, tiles, input, first_panel, x_tile - tiles.lead, lane);
    describe_slots(described, p, tiles, first_panel, 0, slots, x_tile, lane);
    ptx::cp_async_wait_all();
    __syncwarp();
    const ToeplitzItem upper(tiles, described, output, columns, lane / 4, lane, finished);
    const ToeplitzItem lower(tiles, described, output, columns, lane / 4 + 8, lane, finished);
    float sums[kKernel][4] = {};
    const T* from = fragments - tiles.pitch;
    // Groups of kKernel input rows; all but the first complete as many output rows.
#pragma unroll 1
    for (int first = -kKernel; first < tiles.rows; first += kKernel) {
      float* to_upper = upper.start(first, stride_h);
      float* to_lower = lower.start(first, stride_h);
      const bool complete = first >= 0;
      const int begin = first + kKernel - 1, end = begin + kKernel;
      // Input row begin + i begins the output row of its number and completes output row first + i.
      if (complete && tiles.paired && begin >= tiles.row_begin && end <= tiles.row_end) {
#pragma unroll
        for (int i = 0; i < kKernel; ++i) {
          multiply_row<T>(sums, i, from, taps);
          const float(&done)[4] = sums[(i + 1) % kKernel];
          if (upper.first) store_shared(to_upper, done[0], done[1]);
          if (lower.first) store_shared(to_lower, done[2], done[3]);
          from += tiles.pitch, to_upper += tiles.row_pitch, to_lower += tiles.row_pitch;
        }
      } else {
#pragma unroll
        for (int i = 0; i < kKernel; ++i) {
          const int row = begin + i;
          if (row >= tiles.row_begin && row < tiles.row_end) {
            multiply_row<T>(sums, i, from, taps);
          } else {
#pragma unroll
            for (float& sum : sums[i]) sum = 0.f;
          }
          if (complete) {
            const float(&done)[4] = sums[(i + 1) % kKernel];
            if (upper.first) store_shared(to_upper, done[0]);
            if (upper.second) store_shared(to_upper + 1, done[1]);
            if (lower.first) store_shared(to_lower, done[2]);
            if (lower.second) store_shared(to_lower + 1, done[3]);
          }
          from += tiles.pitch, to_upper += tiles.row_pitch, to_lower += tiles.row_pitch;
        }
      }
      if (complete) {
        __syncwarp();
        store_runs<kKernel>(finished, described, tiles, output, stride_h, channel, slots, columns,
                            first, lane, bias, epilogue,
                            ToeplitzRepair<kHalves, T>{staged, table, kKernel, kKernel, p.pad_left,
                                                       tiles});
        __syncwarp();
      }
    }
  }
#endif
}

}  // namespace effkern
