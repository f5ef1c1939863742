// How a launch of the Toeplitz kernels is cut into warps and blocks. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_large_kernel.cuh"

namespace effkern {

// Enough warps for all schedulers of a large GPU: below, smaller work per warp is faster.
inline constexpr int64_t kToeplitzTargetWarps = 2048;
// Of shared memory for a warp, so that an SM has room for 12 of them or more.
inline constexpr int64_t kToeplitzWarpBytes = 16 << 10;
inline constexpr int64_t kToeplitzBlockBytes = 48 << 10;

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
    const bool better = result.first_output == -align ||
                        (first % 2 == 0 && result.first_output % 2) ||
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
  const bool fewer =
      wide.column_tiles * (16 / narrow.windows) > narrow.column_tiles * (16 / wide.windows);
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
      const int unit =
          slot / t.strips * panel_units + slot % t.strips * strip_units + item % t.windows;
      most = std::max(most, ++uses[unit % 8]);
    }
    conflicts += most - 1;
  }
  return conflicts;
}

}  // namespace detail

// The part of a tiling that both kernels have in common: columns, and all that depends on them.
template <typename T>
ToeplitzTiles start_toeplitz(const DepthwiseImages<T>& p, int kernel_w, int halves, int load_width,
                             int store_width) {
  ToeplitzTiles t{};
  const auto c = choose_toeplitz_columns(p.out_width, p.pad_left, kernel_w, halves, load_width);
  t.windows = c.windows, t.column_tiles = c.column_tiles, t.tile_columns = c.tile_columns;
  t.first_output = c.first_output, t.lead = c.lead, t.shift = c.shift, t.load_width = c.load_width;
  t.paired = store_width >= 2 && t.first_output % 2 == 0;
  t.staged_columns = 8 * (t.windows + halves - 1);
  return t;
}

// Cuts a channel's rows into panels of strips of `rows` rows.
template <typename T>
void set_toeplitz_rows(ToeplitzTiles& t, const DepthwiseImages<T>& p, int kernel_h, int strips,
                       int rows) {
  t.strips = strips, t.rows = rows;
  t.row_tiles = int(ceil_div(p.out_height, int64_t(rows) * strips));
  t.panel_count = int(int64_t(p.batch) * t.row_tiles);
  t.row_begin = 0, t.row_end = rows + kernel_h - 1;
  t.staged_rows = strips * rows + kernel_h - 1;
  if (t.row_tiles > 1) return;
  // All panels meet the same rows outside the image: they are left out.
  const int end = t.staged_rows;
  t.row_begin = std::min(std::max(0, p.pad_top), end);
  t.staged_rows = std::clamp(p.pad_top + p.height, t.row_begin, end) - t.row_begin;
  t.row_end = std::min(t.row_end, t.row_begin + t.staged_rows);
}

// Distances in shared memory, without bank conflicts where there is room; how the threads copy; and
// what each warp or block takes. False if it is too much for one launch.
template <typename T>
bool finish_toeplitz(ToeplitzTiles& t, const DepthwiseImages<T>& p, int threads,
                     int64_t target_jobs) {
  int fewest = 1 << 30;
  const int least = t.staged_columns / 8, most_extra = t.strips == 1 ? 1 : 4;
  const int most_gap = t.panels == 1 ? 1 : 8;
  // Below 64 there are none.
  for (int extra = 0; extra < most_extra && fewest >= 64; ++extra) {
    for (int gap = 0; gap < most_gap && fewest >= 64; ++gap) {
      const int units = least + extra, panel = t.staged_rows * units + gap;
      const int cost = 64 * detail::toeplitz_conflicts(t, t.rows * units, panel) + 8 * extra + gap;
      if (cost >= fewest) continue;
      fewest = cost, t.pitch = 8 * units, t.panel_pitch = 8 * panel;
    }
  }
  t.chunks = int(std::min(ceil_div(p.width, 8), int64_t(t.staged_columns / 8)));
  t.panels_at_once = std::clamp(threads / std::max(1, t.staged_rows * t.chunks), 1, t.panels);
  t.rows_at_once = t.panels_at_once > 1
                       ? t.staged_rows
                       : std::clamp(threads / t.chunks, 1, std::max(1, t.staged_rows));
  const int64_t groups = ceil_div(t.panel_count, t.panels);
  const int64_t all = p.channels * groups * t.column_tiles;
  t.rounds = int(std::clamp<int64_t>(all / target_jobs, 1, groups));
  const int64_t jobs = p.channels * ceil_div(groups, t.rounds) * t.column_tiles;
  // The last block may have fewer than its warps.
  if (jobs > kMaxInt - kToeplitzWarps) return false;
  t.jobs = int(jobs);
  t.by_channels = make_divisor(p.channels);
  t.by_column_tiles = make_divisor(t.column_tiles);
  t.by_row_tiles = make_divisor(t.row_tiles);
  t.by_strips = make_divisor(t.strips);
  t.by_windows = make_divisor(t.windows);
  t.by_chunks = make_divisor(t.chunks);
  t.by_panel_lanes = make_divisor(t.rows_at_once * t.chunks);
  return true;
}

// For depthwise_conv2d_toeplitz_kernel. False where it does not take the tensors.
template <typename T>
bool tile_toeplitz(const DepthwiseImages<T>& p, int kernel, int load_width, int store_width,
                   ToeplitzTiles* result) {
  constexpr int kHalves = 2;
  ToeplitzTiles t = start_toeplitz(p, kernel, kHalves, load_width, store_width);
  const int slots = 16 / t.windows, table = 2 * kernel * kTapPitch<kHalves>;
  int64_t best = -1;
  for (int strips = 1;; strips = std::min(2 * strips, slots)) {
    for (int64_t row_tiles = 1; row_tiles <= p.out_height; row_tiles *= 2) {
      set_toeplitz_rows(t, p, kernel, strips, int(ceil_div(p.out_height, row_tiles * strips)));
      if (strips > 1) {
        // Strips that meet different rows outside the image walk over all of theirs.
        t.row_begin = 0, t.row_end = t.rows + kernel - 1;
        t.staged_rows = strips * t.rows + kernel - 1;
      }
      t.panels = int(std::min(slots / strips, t.panel_count));
      t.panel_pitch = t.staged_rows * t.staged_columns;
      const bool least = t.rows == 1 && t.panels == 1;
      if (toeplitz_warp_bytes(t, table) > kToeplitzWarpBytes && !least) continue;
      // Instructions of a warp, by the machine code: products, stores, copies, set-up.
      const int64_t copies = int64_t(t.panels) * t.staged_rows * (t.staged_columns / 8);
      const int64_t instructions =
          14 * (t.row_end - t.row_begin) + 20 * t.rows + 22 * ceil_div(copies, 32) + 400;
      const int64_t warps = p.channels * ceil_div(t.panel_count, t.panels) * t.column_tiles;
      const int64_t cost = instructions * std::max(warps, kToeplitzTargetWarps);
      if (best < 0 || cost < best) best = cost, *result = t;
      if (t.rows == 1) break;
    }
    if (strips >= slots || strips >= p.out_height) break;
  }
  if (best < 0 || !finish_toeplitz(*result, p, 32, 2 * kToeplitzTargetWarps)) return false;
  const int64_t warps = kToeplitzBlockBytes / toeplitz_warp_bytes(*result, table);
  result->warps = int(std::min<int64_t>(kToeplitzWarps, warps));
  return warps > 0;
}

// Of shared memory of a block of depthwise_conv2d_toeplitz_large_kernel.
inline int64_t toeplitz_large_bytes(const ToeplitzTiles& t, int kernel_h, int halves) {
  return (int64_t(2 * kernel_h) * (8 * halves + 8) + t.pitch + int64_t(t.panels) * t.panel_pitch) *
         2;
}

// For depthwise_conv2d_toeplitz_large_kernel.
template <typename T>
bool tile_toeplitz_large(const DepthwiseImages<T>& p, int kernel_h, int kernel_w, int halves,
                         int load_width, int store_width, ToeplitzTiles* result) {
  ToeplitzTiles t = start_toeplitz(p, kernel_w, halves, load_width, store_width);
  t.warps = kToeplitzWarps;
  // Whole images if they fit; else the most strips that do, in equal parts.
  const int all_strips = int(ceil_div(p.out_height, kToeplitzRows));
  for (int parts = 1;; ++parts) {
    set_toeplitz_rows(t, p, kernel_h, int(ceil_div(all_strips, parts)), kToeplitzRows);
    // Room for what finish_toeplitz adds.
    t.pitch = t.staged_columns + 24, t.panel_pitch = t.staged_rows * t.pitch, t.panels = 1;
    if (toeplitz_large_bytes(t, kernel_h, halves) <= kToeplitzBlockBytes) break;
    if (t.strips == 1) return false;
  }
  // As many panels as all warps take at a time.
  const int slots = kToeplitzWarps * (16 / t.windows);
  const int panels = std::clamp(slots / t.strips, 1, t.panel_count);
  t.panel_pitch += 56;
  while (t.panels < panels) {
    ++t.panels;
    if (toeplitz_large_bytes(t, kernel_h, halves) <= kToeplitzBlockBytes) continue;
    --t.panels;
    break;
  }
  *result = t;
  return finish_toeplitz(*result, p, 32 * kToeplitzWarps, kToeplitzTargetWarps);
}

}  // namespace effkern
