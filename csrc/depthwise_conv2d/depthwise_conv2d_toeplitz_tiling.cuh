// How a launch of the Toeplitz kernels is cut into warps and blocks. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_kernel.cuh"

namespace effkern {

// Enough warps for all schedulers of a large GPU: below, smaller work per warp is faster.
inline constexpr int64_t kToeplitzTargetWarps = 2048;
// Of shared memory for a warp, so that an SM has room for 12 of them or more.
inline constexpr int64_t kToeplitzWarpBytes = 16 << 10;
inline constexpr int64_t kToeplitzBlockBytes = 48 << 10;

inline Divisor make_divisor(int64_t divisor) {
  int bits = 0;
  while ((int64_t(1) << bits) < divisor) ++bits;
  return {unsigned(divisor), unsigned(ceil_div(int64_t(1) << (31 + bits), divisor)), 31 + bits};
}

// The part of a tiling that the columns decide.
struct ToeplitzColumns {
  int windows, column_tiles, tile_columns, first_output, lead, shift, load_width;
};

// Windows start with an aligned input column, at the cost of outputs that lie before the tile.
inline ToeplitzColumns toeplitz_columns(int64_t columns, int64_t pad_left, int kernel, int halves,
                                        int load_width) {
  const int align = load_width == 8 ? 8 : 4;
  ToeplitzColumns result{};
  result.load_width = load_width;
  // The latest first output that is even, if there is one.
  result.first_output = -align;
  for (int shift = 0; shift <= 8 * halves - 7 - kernel; ++shift) {
    const int64_t lead = ceil_div(pad_left + shift, align) * align;
    const int first = int(pad_left + shift - lead);
    const bool better = result.first_output == -align || (first % 2 == 0 && result.first_output % 2) ||
                        (first % 2 == result.first_output % 2 && first > result.first_output);
    if (better) result.first_output = first, result.lead = int(lead), result.shift = shift;
  }
  const int64_t windows = ceil_div(columns - result.first_output, 8);
  if (windows <= 16) {
    result.windows = int(windows), result.column_tiles = 1, result.tile_columns = int(columns);
    return result;
  }
  // Whole windows; where they start before the tile, one more.
  const int extra = result.first_output != 0;
  const int64_t units = ceil_div(columns, 8);
  result.column_tiles = int(ceil_div(units, 16 - extra));
  result.tile_columns = int(ceil_div(units, result.column_tiles) * 8);
  result.column_tiles = int(ceil_div(columns, result.tile_columns));
  result.windows = result.tile_columns / 8 + extra;
  return result;
}

// The columns for the widest copies that the input allows, unless narrower ones let more strips
// side by side.
inline ToeplitzColumns choose_toeplitz_columns(int64_t columns, int64_t pad_left, int kernel,
                                               int halves, int load_width) {
  const auto wide = toeplitz_columns(columns, pad_left, kernel, halves, load_width);
  if (load_width != 8) return wide;
  const auto narrow = toeplitz_columns(columns, pad_left, kernel, halves, 4);
  const bool fewer = wide.column_tiles * (16 / narrow.windows) > narrow.column_tiles * (16 / wide.windows);
  return fewer ? narrow : wide;
}

// Of shared memory, for `table` elements of taps.
inline int64_t toeplitz_warp_bytes(const ToeplitzTiles& t, int table) {
  return (int64_t(t.panels) * t.panel_pitch + table) * 2;
}

namespace detail {

// Passes of ldmatrix through the banks of shared memory beyond the fewest, over both halves of the
// fragment's rows, for strips and panels that lie so many 16-byte units apart.
inline int toeplitz_conflicts(const ToeplitzTiles& t, int strip_units, int panel_units) {
  int conflicts = 0;
  for (int half = 0; half < 16; half += 8) {
    int uses[8] = {}, most = 1;
    for (int item = half; item < half + 8; ++item) {
      const int slot = item / t.windows;
      if (slot >= t.panels * t.strips) break;
      const int unit = slot / t.strips * panel_units + slot % t.strips * strip_units + item % t.windows;
      most = std::max(most, ++uses[unit % 8]);
    }
    conflicts += most - 1;
  }
  return conflicts;
}

}  // namespace detail

// False where the kernel does not take the tensors. `halves` is the number of 8-column parts of a
// window's input.
template <typename T>
bool tile_toeplitz(const DepthwiseImages<T>& p, int kernel, int halves, int load_width,
                   int store_width, ToeplitzTiles* result) {
  ToeplitzTiles t{};
  const auto c = choose_toeplitz_columns(p.out_width, p.pad_left, kernel, halves, load_width);
  t.windows = c.windows, t.column_tiles = c.column_tiles, t.tile_columns = c.tile_columns;
  t.first_output = c.first_output, t.lead = c.lead, t.shift = c.shift, t.load_width = c.load_width;
  t.paired = store_width >= 2 && t.first_output % 2 == 0;
  const int least_pitch = 8 * (t.windows + halves - 1), slots = 16 / t.windows;
  t.staged_columns = least_pitch;
  const int table = 2 * kernel * (8 * halves + 8);

  int64_t best = -1;
  for (int strips = 1;; strips = std::min(2 * strips, slots)) {
    for (int64_t row_tiles = 1; row_tiles <= p.out_height; row_tiles *= 2) {
      ToeplitzTiles option = t;
      option.strips = strips;
      option.rows = int(ceil_div(p.out_height, row_tiles * strips));
      option.row_tiles = int(ceil_div(p.out_height, int64_t(option.rows) * strips));
      const int64_t panel_count = int64_t(p.batch) * option.row_tiles;
      option.panel_count = int(panel_count);
      option.panels = int(std::min<int64_t>(slots / strips, panel_count));
      option.row_end = option.rows + kernel - 1;
      option.staged_rows = strips * option.rows + kernel - 1;
      if (strips == 1 && option.row_tiles == 1) {
        // All strips meet the same rows outside the image: they are left out.
        option.row_begin = std::min(std::max(0, p.pad_top), option.row_end);
        option.row_end = std::clamp(p.pad_top + p.height, option.row_begin, option.row_end);
        option.staged_rows = option.row_end - option.row_begin;
      }
      const int64_t bytes =
          (int64_t(option.panels) * option.staged_rows * least_pitch + table) * 2;
      if (bytes > kToeplitzWarpBytes && (option.rows > 1 || option.panels > 1)) continue;
      // Instructions of a warp, by the machine code: products, stores, copies, set-up.
      const int64_t copies = int64_t(option.panels) * option.staged_rows * (least_pitch / 8);
      const int64_t instructions = 14 * (option.row_end - option.row_begin) + 20 * option.rows +
                                   22 * ceil_div(copies, 32) + 400;
      const int64_t warps = int64_t(p.channels) * ceil_div(panel_count, option.panels) * t.column_tiles;
      const int64_t cost = instructions * std::max(warps, kToeplitzTargetWarps);
      if (best < 0 || cost < best) best = cost, *result = option;
      if (option.rows == 1) break;
    }
    if (strips >= slots || strips >= p.out_height) break;
  }
  if (best < 0) return false;
  t = *result;

  int best_pitch = 0, best_gap = 0, fewest = 1 << 30;
  for (int extra = 0; extra < 4; ++extra) {
    const int units = least_pitch / 8 + extra;
    for (int gap = 0; gap < 8; ++gap) {
      const int conflicts =
          detail::toeplitz_conflicts(t, t.rows * units, t.staged_rows * units + gap);
      const int weighted = 64 * conflicts + 8 * extra + gap;
      if (weighted < fewest) fewest = weighted, best_pitch = 8 * units, best_gap = 8 * gap;
      if (t.panels == 1) break;
    }
    if (t.strips == 1) break;
  }
  t.pitch = best_pitch;
  t.panel_pitch = t.staged_rows * t.pitch + best_gap;
  t.warps = int(std::min<int64_t>(kToeplitzWarps, kToeplitzBlockBytes / toeplitz_warp_bytes(t, table)));
  if (t.warps == 0) return false;

  t.chunks = int(std::min(ceil_div(p.width, 8), ceil_div(least_pitch, 8)));
  t.panels_at_once =
      std::max(1, std::min(t.panels, 32 / std::max(1, t.staged_rows * t.chunks)));
  t.rows_at_once = t.panels_at_once > 1 ? t.staged_rows : std::max(1, std::min(t.staged_rows, 32 / t.chunks));
  const int64_t groups = ceil_div(t.panel_count, t.panels);
  const int64_t warps = p.channels * groups * t.column_tiles;
  t.rounds = int(std::clamp<int64_t>(warps / (2 * kToeplitzTargetWarps), 1, groups));
  const int64_t jobs = p.channels * ceil_div(groups, t.rounds) * t.column_tiles;
  if (jobs > kMaxInt) return false;
  t.jobs = int(jobs);
  t.by_channels = make_divisor(p.channels);
  t.by_column_tiles = make_divisor(t.column_tiles);
  t.by_row_tiles = make_divisor(t.row_tiles);
  t.by_strips = make_divisor(t.strips);
  t.by_windows = make_divisor(t.windows);
  t.by_chunks = make_divisor(t.chunks);
  t.by_panel_lanes = make_divisor(std::max(1, t.rows_at_once * t.chunks));
  *result = t;
  return true;
}

}  // namespace effkern
