// How launches of the Toeplitz kernels with blocks of channels are cut. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_channels_last_large_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_planes_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_tiling.cuh"

namespace effkern {

// Of a large GPU; with fewer blocks than two for each, more and smaller ones are faster.
inline constexpr int64_t kToeplitzMultiprocessors = 132;
// Of shared memory: of three blocks of an SM of sm_90, two of sm_80; of four, which hide more
// latency.
inline constexpr int64_t kToeplitzMostBytes = 75 << 10, kToeplitzGoodBytes = 56 << 10;

inline SmallDivisor make_small_divisor(int divisor) {
  return {divisor, unsigned(ceil_div(int64_t(1) << 31, divisor))};
}

// Of the taps in shared memory; a window's input has so many parts of 8 columns.
struct ToeplitzBlockKernel {
  int height, width, halves;
};

// Of shared memory; of all kernels, so that the tilings have one limit.
inline int64_t toeplitz_block_bytes(const ToeplitzBlocks& t, const ToeplitzBlockKernel& kernel) {
  const int64_t pairs = 2 * kernel.height * (kernel.width + 2);
  const int64_t raw = kToeplitzBlockWarps * detail::kStagedPairs * detail::kPairPitch;
  return 2 * (kZeros + 16 * (kernel.halves - 2) + raw + 16 +
              kToeplitzBlockChannels * (pairs + t.plane_pitch));
}

namespace detail {

// Numbers of 4 bits: those of all strips with their bits rotated by `turn`.
inline uint64_t turned_strips(const ToeplitzBlocks& t, int turn) {
  const int bits = 4 - t.window_bits, count = 1 << bits;
  uint64_t order = 0;
  for (int i = 0; i < count; ++i) {
    order |= uint64_t((i << turn | i >> (bits - turn)) & (count - 1)) << 4 * i;
  }
  return order;
}

// Passes of ldmatrix through the banks of shared memory beyond the fewest.
inline int toeplitz_block_conflicts(const ToeplitzBlocks& t) {
  int conflicts = 0;
  for (int half = 0; half < 16; half += 8) {
    int uses[8] = {}, most = 1;
    for (int window = half; window < half + 8; ++window) {
      const int strip = int(t.strip_order >> 4 * (window >> t.window_bits)) & 15;
      const int column = window & ((1 << t.window_bits) - 1), panel = strip >> t.strip_bits;
      if (column >= t.windows || panel >= t.panels) continue;
      const int row = (strip & ((1 << t.strip_bits) - 1)) * kToeplitzBlockRows;
      most = std::max(most, ++uses[((panel * t.panel_pitch + row * t.pitch) / 8 + column) % 8]);
    }
    conflicts += most - 1;
  }
  return conflicts;
}

// Distances in shared memory and the order of strips: the fewest conflicts that fit, then the least
// memory. False if nothing fits.
inline bool pitch_toeplitz_blocks(ToeplitzBlocks& t, const ToeplitzBlockKernel& kernel) {
  int fewest = 1 << 30;
  ToeplitzBlocks best = t;
  for (int extra = 0; extra < 3; ++extra) {
    for (int gap = 0; gap < (t.panels == 1 ? 1 : 8); ++gap) {
      t.pitch = 8 * (t.units + extra);
      t.panel_pitch = t.staged_rows * t.pitch + 8 * gap;
      const int outputs = kToeplitzOutputPitch / 8 * kToeplitzBlockRows;
      const int plane = std::max(t.panels * t.panel_pitch / 8, outputs);
      t.plane_pitch = 8 * (plane | 1);
      const int64_t bytes = toeplitz_block_bytes(t, kernel);
      if (bytes > kToeplitzMostBytes) continue;
      for (int turn = 0; turn < std::max(1, 4 - t.window_bits); ++turn) {
        t.strip_order = turned_strips(t, turn);
        // Fewer blocks on an SM are as bad as one conflict.
        const int conflicts = toeplitz_block_conflicts(t) + (bytes > kToeplitzGoodBytes);
        const int cost = 8192 * conflicts + t.plane_pitch;
        if (cost < fewest) fewest = cost, best = t;
      }
    }
  }
  t = best;
  return fewest < 1 << 30;
}

// Picoseconds of a block on an H200 by the terms of the prediction: issue, shared memory, L2,
// tensor cores. Counts are those of the machine code.
inline double toeplitz_block_cost(const ToeplitzBlocks& t, const ToeplitzBlockKernel& kernel,
                                  int width) {
  const int64_t rows = int64_t(t.panels) * t.staged_rows, pairs = rows * t.unit_pairs;
  const int64_t products = kToeplitzBlockRows * kernel.height;
  const double taps = 16. * kernel.height * (kernel.width + 2);
  const double instructions =
      16. * (products * ((kernel.halves + 1) / 2) + 180) + 32 * pairs + 8 * 110 + 600 + taps;
  const int conflicts = toeplitz_block_conflicts(t);
  const double passes =
      16. * ((kToeplitzBlockRows + kernel.height - 1) * kernel.halves * (2 + conflicts) +
             kernel.halves * kernel.height + 14) +
      12 * pairs + 8 * 28;
  const double bytes =
      32. * (rows * std::min(t.tile_columns + kernel.width - 1, width) +
             double(t.panels) * (kToeplitzBlockRows << t.strip_bits) * t.tile_columns);
  const double flops = 16. * products * kernel.halves * 2048;
  const double latency = toeplitz_block_bytes(t, kernel) > kToeplitzGoodBytes ? 1.05 : 1;
  return latency *
         std::max({instructions * 32 / 22.2, passes * 128 / 22.2, bytes / 4.1, flops / 450});
}

}  // namespace detail

inline void finish_toeplitz_blocks(ToeplitzBlocks& t) {
  t.by_channel_blocks = make_divisor(t.channel_blocks);
  t.by_column_tiles = make_divisor(t.column_tiles);
  t.by_row_tiles = make_divisor(t.row_tiles);
  t.by_unit_pairs = make_small_divisor(t.unit_pairs);
  t.by_staged_rows = make_small_divisor(t.staged_rows);
}

// For the channels_last kernels, with so many rows of taps in shared memory. False where nothing
// fits.
template <typename T>
bool tile_toeplitz_blocks(const DepthwiseImages<T>& p, const ToeplitzBlockKernel& kernel,
                          ToeplitzBlocks* result) {
  constexpr int kRows = kToeplitzBlockRows;
  ToeplitzBlocks t{};
  t.channel_blocks = int(ceil_div(p.channels, kToeplitzBlockChannels));
  double best = -1;
  for (int windows = 1; windows <= 16; ++windows) {
    const int64_t tiles = ceil_div(p.out_width, 8 * windows);
    // As narrow as this number of tiles allows.
    if (ceil_div(ceil_div(p.out_width, tiles), 8) != windows) continue;
    t.windows = windows, t.column_tiles = int(tiles), t.tile_columns = 8 * windows;
    t.window_bits = 0;
    while (1 << t.window_bits < windows) ++t.window_bits;
    t.units = windows + kernel.halves - 1, t.unit_pairs = (t.units + 1) / 2;
    const int slots = 16 >> t.window_bits;
    for (t.strip_bits = 0; 1 << t.strip_bits <= slots; ++t.strip_bits) {
      const int rows = kRows << t.strip_bits;
      // Strips below the image.
      if (t.strip_bits && rows / 2 >= p.out_height) break;
      t.row_tiles = int(ceil_div(p.out_height, rows));
      if (int64_t(p.batch) * t.row_tiles > kMaxInt) continue;
      t.panel_count = p.batch * t.row_tiles;
      t.staged_rows = std::min(rows + kernel.height - 1, p.height);
      // Offsets in a block are ints.
      const int64_t apart = std::max<int64_t>({p.input_strides.n, p.output_strides.n, 1});
      const int64_t images = std::min<int64_t>(p.batch, std::max<int64_t>(kMaxInt / 2 / apart, 1));
      const int most = t.row_tiles > 1 ? 1 : int(std::min<int64_t>(slots >> t.strip_bits, images));
      for (t.panels = 1; t.panels <= most; ++t.panels) {
        if (!detail::pitch_toeplitz_blocks(t, kernel)) break;
        const int64_t blocks =
            ceil_div(t.panel_count, t.panels) * t.column_tiles * t.channel_blocks;
        if (blocks > kMaxInt) continue;
        const bool four = toeplitz_block_bytes(t, kernel) <= kToeplitzGoodBytes;
        const double cost = detail::toeplitz_block_cost(t, kernel, p.width) *
                            double(std::max(blocks, kToeplitzMultiprocessors * (four ? 2 : 1)));
        if (best < 0 || cost < best) best = cost, *result = t;
      }
    }
  }
  if (best < 0) return false;
  finish_toeplitz_blocks(*result);
  return true;
}

// `vector` elements are aligned in every row.
inline ToeplitzPlaneCopy copy_toeplitz_planes(int width, int height, int vector) {
  ToeplitzPlaneCopy copy{};
  copy.width = std::min(vector, 4);
  while (copy.width << copy.lane_bits < width) ++copy.lane_bits;
  const int rows = 32 * kToeplitzBlockWarps >> copy.lane_bits;
  copy.planes_at_once = std::clamp(rows / height, 1, kToeplitzBlockChannels);
  copy.by_rows = make_small_divisor(height);
  return copy;
}

// For depthwise_conv2d_toeplitz_planes_kernel: several images, so small that the windows of two fit
// a product. False for all others.
template <typename T>
bool tile_toeplitz_planes(const DepthwiseImages<T>& p, int size, int load_width, int store_width,
                          ToeplitzPlanes* result) {
  const ToeplitzBlockKernel kernel{size, size, 2};
  ToeplitzBlocks t{};
  t.channel_blocks = int(ceil_div(p.channels, kToeplitzBlockChannels));
  if (p.out_width > 128 || p.out_height > 16 * kToeplitzBlockRows) return false;
  t.windows = int(ceil_div(p.out_width, 8)), t.column_tiles = 1, t.tile_columns = 8 * t.windows;
  while (1 << t.window_bits < t.windows) ++t.window_bits;
  while (kToeplitzBlockRows << t.strip_bits < p.out_height) ++t.strip_bits;
  // One image alone gives depthwise_conv2d_toeplitz_kernel more warps.
  if (t.window_bits + t.strip_bits > 3 || p.batch == 1 || p.width > 32 * kToeplitzBlockWarps) {
    return false;
  }
  t.units = t.windows + 1, t.unit_pairs = (t.units + 1) / 2;
  t.row_tiles = 1, t.panel_count = p.batch;
  t.staged_rows = std::min((kToeplitzBlockRows << t.strip_bits) + size - 1, p.height);
  // Input columns are aligned in shared memory as in memory.
  int vector = std::min(load_width, 4);
  for (t.shift = 0; (p.pad_left + t.shift) % vector; ++t.shift) {
    if (t.shift < 9 - size) continue;
    t.shift = -1, vector /= 2;
  }
  const int most = 16 >> (t.window_bits + t.strip_bits);
  double best = -1;
  for (t.panels = 1; t.panels <= std::min(most, p.batch); ++t.panels) {
    if (!detail::pitch_toeplitz_blocks(t, kernel)) break;
    const int64_t blocks = ceil_div(t.panel_count, t.panels) * t.channel_blocks;
    const double cost =
        (4000. + 600. * t.panels) * double(std::max(blocks, 2 * kToeplitzMultiprocessors));
    if (blocks <= kMaxInt && (best < 0 || cost < best)) best = cost, result->blocks = t;
  }
  if (best < 0) return false;
  finish_toeplitz_blocks(result->blocks);
  result->strip_places = 0;
  for (int i = 0; i < 16 >> t.window_bits; ++i) {
    result->strip_places |= uint64_t(i) << 4 * (result->blocks.strip_order >> 4 * i & 15);
  }
  result->input = copy_toeplitz_planes(p.width, p.height, vector);
  result->output = copy_toeplitz_planes(p.out_width, p.out_height, store_width);
  return true;
}

}  // namespace effkern
