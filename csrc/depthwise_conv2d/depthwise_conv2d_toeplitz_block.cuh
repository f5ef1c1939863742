// Toeplitz products of a block of channels whose planes lie side by side in shared memory, stride
// 1: here for k x k kernels with k <= 9.
//
// A block has 16 neighbouring channels and the same tile of each. A warp takes one channel at a
// time: up to 16 windows of 8 neighbouring outputs, the m dimension of an m16n8k16 product, times 7
// output rows, whose accumulators stay in registers. Every row of the input meets only the kernel
// rows that it has outputs for. The outputs replace the channel's input in shared memory. How
// planes come there and go is the kernels' part.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_store.cuh"

namespace effkern {

inline constexpr int kToeplitzBlockChannels = 16;
inline constexpr int kToeplitzBlockRows = 7;
inline constexpr int kToeplitzBlockWarps = 4;
// Elements from one row of a channel's outputs to the next in shared memory: 16 windows, and 8 more
// for the sake of the banks.
inline constexpr int kToeplitzOutputPitch = 17 * 8;

// n / divisor for 0 <= n < 2^16 and divisors up to 2^15 without a division.
struct SmallDivisor {
  int divisor;
  unsigned magic;

  // Replaces n by its remainder.
  __device__ __forceinline__ int split(int& n) const {
    const int q = int(uint64_t(2 * unsigned(n)) * magic >> 32);
    n -= q * divisor;
    return q;
  }
};

// A strip is `windows` neighbouring windows times kToeplitzBlockRows rows, a panel is 1 <<
// strip_bits strips one below the other in one image. A block has one panel, or those of several
// images where one is as high as an image.
struct ToeplitzBlocks {
  // Of the 16 windows of a product, 1 << window_bits belong to a strip, and `windows` are used.
  int window_bits, windows, strip_bits, panels;
  // The strips in the order of the windows, 4 bits each, so that those that are read together lie
  // in different banks.
  uint64_t strip_order;
  // In the product, tap i of output j meets input column i + j + shift of the window.
  int shift;
  // Of an image.
  int row_tiles, column_tiles, tile_columns;
  int panel_count, channel_blocks;
  // Rows of a panel in shared memory, all of them inside the image; units of 8 columns of each, and
  // pairs of them.
  int staged_rows, units, unit_pairs;
  // Elements of shared memory from row to row, panel to panel and channel to channel.
  int pitch, panel_pitch, plane_pitch;
  Divisor by_channel_blocks, by_column_tiles, by_row_tiles;
  SmallDivisor by_unit_pairs, by_staged_rows;
};

// Where a block's panels lie.
struct ToeplitzBlockPlace {
  int first_channel, x;
  // Of the first panel; the others are those of the next images.
  int n, row;
  // Inside the image. The first row in shared memory.
  int panels, staged_row;

  template <typename T>
  __device__ __forceinline__ ToeplitzBlockPlace(const ToeplitzBlocks& tiles,
                                                const DepthwiseImages<T>& p, int block) {
    first_channel = block;
    block = tiles.by_channel_blocks.split(first_channel);
    first_channel *= kToeplitzBlockChannels;
    x = block;
    block = tiles.by_column_tiles.split(x) * tiles.panels;
    x *= tiles.tile_columns;
    panels = min(tiles.panels, tiles.panel_count - block);
    n = tiles.by_row_tiles.split(block);
    row = block * kToeplitzBlockRows << tiles.strip_bits;
    staged_row = min(max(row - p.pad_top, 0), p.height - tiles.staged_rows);
  }
};

// One of the 16 windows of a block's products.
struct ToeplitzBlockWindow {
  bool there;
  // In the block; of its first output in the image and in the tile.
  int panel, row, column;
  // Of its first input row: in the image, and its elements' place in a channel's plane.
  int y, offset;

  template <typename T>
  __device__ __forceinline__ ToeplitzBlockWindow(const ToeplitzBlocks& tiles,
                                                 const DepthwiseImages<T>& p,
                                                 const ToeplitzBlockPlace& place, int window) {
    const int strip = int(tiles.strip_order >> 4 * (window >> tiles.window_bits)) & 15;
    column = window & ((1 << tiles.window_bits) - 1);
    panel = strip >> tiles.strip_bits;
    there = column < tiles.windows && panel < place.panels;
    // What is not there reads what another window reads, from the same banks.
    column = min(column, tiles.windows - 1);
    if (panel >= place.panels) panel = 0;
    row = place.row + (strip & ((1 << tiles.strip_bits) - 1)) * kToeplitzBlockRows;
    y = row - p.pad_top;
    column *= 8;
    offset = panel * tiles.panel_pitch + (y - place.staged_row) * tiles.pitch + column;
  }
};

// The taps of a channel in shared memory: for each kernel row and d = -1 ... kKernel, the pair of
// taps d and d + 1, zeros outside.
template <int kKernel>
inline constexpr int kTapPairs = kKernel * (kKernel + 2);

// Of the block's channels, zeros past the last channel; a thread takes a kernel row. The caller
// synchronises.
template <int kKernel, typename T>
__device__ __forceinline__ void stage_tap_pairs(T* pairs, const DepthwiseImages<T>& p,
                                                int first_channel) {
  static_assert(kToeplitzBlockChannels * kKernel <= 32 * kToeplitzBlockWarps);
  const int row = threadIdx.x;
  if (row >= kToeplitzBlockChannels * kKernel) return;
  // Of all channels' rows; those of a channel are in reverse order in a flipped kernel.
  const int channel = row / kKernel, ky = row - channel * kKernel;
  const bool there = first_channel + channel < p.channels;
  const T* from = p.weight + int64_t(first_channel + channel) * (kKernel * kKernel) +
                  (p.flip_taps ? kKernel * kKernel - 1 - ky * kKernel : ky * kKernel);
  unsigned taps[kKernel + 3] = {};
#pragma unroll
  for (int i = 0; i < kKernel; ++i) {
    taps[i + 1] = load_or_zero<1>(there, p.flip_taps ? from - i : from + i).bits;
  }
#pragma unroll
  for (int i = 0; i < kKernel + 2; ++i) {
    store_shared_packed<2>(pairs + 2 * (row * (kKernel + 2) + i),
                           Packed<T, 2>{taps[i] | taps[i + 1] << 16});
  }
}

// B[i][j] = tap[i - j - shift] of one kernel row: the lane's pairs for i = 2 (lane % 4) and 8 more.
template <int kKernel>
struct TapPairOffsets {
  int left, right;

  __device__ __forceinline__ TapPairOffsets(int lane, int shift) {
    const int d = 2 * (lane % 4) - lane / 4 - shift;
    left = 2 * (d < -1 ? kKernel + 1 : min(d, kKernel) + 1);
    right = 2 * (d + 8 < -1 ? kKernel + 1 : min(d + 8, kKernel) + 1);
  }
};

// A window's sums once more, tap by tap: zeros of the Toeplitz matrix times an infinite input are
// NaN. All of the window's outputs are then infinite or NaN, see has_infinite_windows.
template <typename T>
__device__ __forceinline__ void sum_plane_taps(float (&sums)[kToeplitzBlockRows][4], const T* plane,
                                               const T* pairs, int kernel_h, int kernel_w,
                                               const DepthwiseImages<T>& p,
                                               const ToeplitzBlocks& tiles,
                                               const ToeplitzBlockPlace& place, float initial,
                                               int lane) {
  constexpr int kRows = kToeplitzBlockRows;
#pragma unroll 1
  for (int i = 0; i < kRows; ++i) {
    float done[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const ToeplitzBlockWindow at(tiles, p, place, lane / 4 + j / 2 * 8);
      float sum = initial;
#pragma unroll 1
      for (int ky = 0; ky < kernel_h; ++ky) {
        if (!at.there || unsigned(at.y + i + ky) >= unsigned(p.height)) continue;
        const T* from =
            plane + at.offset + (i + ky) * tiles.pitch + 2 * (lane % 4) + j % 2 + tiles.shift;
        const T* taps = pairs + 2 * ky * (kernel_w + 2) + 2;
#pragma unroll 1
        for (int kx = 0; kx < kernel_w; ++kx) {
          float tap[1], value[1];
          load_shared_packed<1>(taps + 2 * kx).widen_to(tap);
          load_shared_packed<1>(from + kx).widen_to(value);
          sum = fmaf(value[0], tap[0], sum);
        }
      }
      done[j] = sum;
    }
    // The array moves up by one row, so that registers can hold it.
#pragma unroll
    for (int j = 0; j < 4 * kRows - 4; ++j) sums[j / 4][j % 4] = sums[j / 4 + 1][j % 4];
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[kRows - 1][j] = done[j];
  }
}

// As wide as all banks of shared memory.
inline constexpr int kZeros = 64;

// From a channel's sums to its plane: output row j of window w replaces elements
// kToeplitzOutputPitch j + 8 w and the next.
template <typename T, typename Epilogue>
__device__ __forceinline__ void finish_plane(T* plane, float (&sums)[kToeplitzBlockRows][4],
                                             const T* pairs, int kernel_h, int kernel_w,
                                             const DepthwiseImages<T>& p,
                                             const ToeplitzBlocks& tiles,
                                             const ToeplitzBlockPlace& place, float initial,
                                             const Epilogue& epilogue, int channel, int lane) {
  T* to = plane + lane / 4 * 8 + lane % 4 * 2;
  const auto store = [&] {
    // All lanes have read the input.
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kToeplitzBlockRows; ++i) {
      store_shared_packed<2>(to + kToeplitzOutputPitch * i, pack<2, T>(sums[i]));
      store_shared_packed<2>(to + kToeplitzOutputPitch * i + 64, pack<2, T>(sums[i] + 2));
    }
  };
  const bool infinite = __any_sync(0xffffffffu, has_infinite_windows(sums));
  // A way of its own for most: no registers are moved for the sake of the others.
  if (!infinite && !epilogue.changes_values()) return store();
  if (infinite) {
    sum_plane_taps(sums, plane, pairs, kernel_h, kernel_w, p, tiles, place, initial, lane);
  }
  finish_sums(sums, epilogue, channel);
  store();
}

// The 16 windows of one channel, whose outputs replace its plane. `zeros` are kZeros elements,
// aligned to as many; `at` is window lane % 16. The caller synchronises.
template <int kKernel, typename T, typename Epilogue>
__device__ __forceinline__ void convolve_plane(T* plane, const T* pairs, const T* zeros,
                                               const DepthwiseImages<T>& p,
                                               const ToeplitzBlocks& tiles,
                                               const ToeplitzBlockPlace& place,
                                               const ToeplitzBlockWindow& at,
                                               const Epilogue& epilogue, int channel, int lane) {
  constexpr int kRows = kToeplitzBlockRows;
  const float initial = epilogue.initial(channel);
  float sums[kRows][4];
#pragma unroll
  for (int i = 0; i < 4 * kRows; ++i) sums[i / 4][i % 4] = initial;
  const TapPairOffsets<kKernel> offsets(lane, tiles.shift);
  uint32_t taps[kKernel][2];
#pragma unroll
  for (int ky = 0; ky < kKernel; ++ky) {
    const T* row = pairs + 2 * ky * (kKernel + 2);
    taps[ky][0] = load_shared_packed<2>(row + offsets.left).bits;
    taps[ky][1] = load_shared_packed<2>(row + offsets.right).bits;
  }
  // Lane l gives the address of window l % 16, of its left (l < 16) or right half.
  const T* from = plane + at.offset + lane / 16 * 8;
  // Where all rows are in the same banks, so are these.
  const T* no_row = zeros + int((from - zeros) & (kZeros - 1));
#pragma unroll
  for (int i = 0; i < kRows + kKernel - 1; ++i, from += tiles.pitch) {
    uint32_t a[4];
    ptx::ldmatrix(a, unsigned(at.y + i) < unsigned(p.height) ? from : no_row);
#pragma unroll
    for (int ky = 0; ky < kKernel; ++ky) {
      if (i - ky >= 0 && i - ky < kRows) ptx::mma_m16n8k16<T>(sums[i - ky], a, taps[ky]);
    }
  }
  finish_plane(plane, sums, pairs, kKernel, kKernel, p, tiles, place, initial, epilogue, channel,
               lane);
}

}  // namespace effkern
