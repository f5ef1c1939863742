// Hooks of the Toeplitz kernels: what the policy Hooked does to the input in shared memory, and the
// sums of the stored output.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_hooks.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_block.cuh"

namespace effkern {
namespace detail {

// kCount neighbours of a row become input_activation(scale * value + shift), rounded to their type;
// those outside [begin, end) are padding, and zeros.
template <int kCount, typename T>
__device__ __forceinline__ void transform_columns(T* at, int begin, int end, const Hooked<T>& hooks,
                                                  float scale, float shift) {
  // A bit for each column inside the image, which a predicate takes.
  const unsigned inside = (1u << min(end, kCount)) - (1u << max(begin, 0));
  float values[kCount];
  load_shared_packed<kCount>(at).widen_to(values);
#pragma unroll
  for (float& value : values) value = fmaf(scale, value, shift);
  activate<T>(hooks.input_activation, values);
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = inside >> i & 1 ? values[i] : 0.f;
  store_shared_packed<kCount>(at, pack<kCount, T>(values));
}

}  // namespace detail

// The staged input of one channel of a block, by the warp that convolves it. The caller
// synchronises.
template <typename T>
__device__ __forceinline__ void transform_plane(T* plane, const DepthwiseImages<T>& p,
                                                const ToeplitzBlocks& tiles,
                                                const ToeplitzBlockPlace& place,
                                                const Hooked<T>& hooks, int channel, int lane) {
  const float scale = hooks.scale_of(channel), shift = hooks.shift_of(channel);
  const int x_first = place.x - p.pad_left - tiles.shift;
  const int count = 2 * place.panels * tiles.staged_rows * tiles.unit_pairs;
#pragma unroll 1
  for (int i = lane; i < count; i += 32) {
    int pair = i / 2;
    int row = tiles.by_unit_pairs.split(pair);
    const int unit = 2 * pair + i % 2, panel = tiles.by_staged_rows.split(row);
    const int x = x_first + 8 * unit;
    if (unit >= tiles.units || x <= -8 || x >= p.width) continue;
    detail::transform_columns<8>(plane + panel * tiles.panel_pitch + row * tiles.pitch + 8 * unit,
                                 -x, p.width - x, hooks, scale, shift);
  }
}

// The panels that a warp has staged, by the lanes that copied them, so that each has only its own
// copies to wait for. The caller synchronises.
template <typename T>
__device__ __forceinline__ void transform_panels(T* staged, const DepthwiseImages<T>& p,
                                                 const ToeplitzTiles& tiles, const Hooked<T>& hooks,
                                                 int channel, int first_panel, int x_first,
                                                 int lane) {
  const float scale = hooks.scale_of(channel), shift = hooks.shift_of(channel);
  int chunk = lane;
  const int lane_panel = tiles.by_panel_lanes.split(chunk), lane_row = tiles.by_chunks.split(chunk);
  if (lane_panel >= tiles.panels_at_once) return;
  const int x = max(x_first, 0) + 8 * chunk;
  const int columns = min(min(p.width, x_first + tiles.staged_columns) - x, 8);
  for (int panel = lane_panel; panel < tiles.panels; panel += tiles.panels_at_once) {
    if (first_panel + panel >= tiles.panel_count) return;
    const ToeplitzPanel at(tiles, first_panel + panel);
    const int y = at.row - p.pad_top + tiles.row_begin;
#pragma unroll 1
    for (int row = lane_row; row < tiles.staged_rows; row += tiles.rows_at_once) {
      if (unsigned(y + row) >= unsigned(p.height)) continue;
      T* to = staged + panel * tiles.panel_pitch + row * tiles.pitch + (x - x_first);
      // Aligned to four elements.
#pragma unroll 1
      for (int i = 0; i < columns; i += 4) {
        detail::transform_columns<4>(to + i, 0, columns - i, hooks, scale, shift);
      }
    }
  }
}

// Sums of what a lane stores of its two windows, see toeplitz_store.cuh: [window][moment].
struct ToeplitzSums {
  float moments[2][2] = {};

  __device__ __forceinline__ void add(int window, bool inside, float value) {
    if (!inside) return;
    moments[window][0] += value;
    moments[window][1] = fmaf(value, value, moments[window][1]);
  }

  // sums[i] are those of row `row` + i of the strip.
  template <typename T, int kRows>
  __device__ __forceinline__ void add(int window, const ToeplitzOutput<T>& output, int row,
                                      const float (&sums)[kRows][4]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float stored[2];
      pack<2, T>(sums[i] + 2 * window).widen_to(stored);
      add(window, row + i < output.rows_first, stored[0]);
      add(window, row + i < output.rows_second, stored[1]);
    }
  }

  // Stores those of each of a warp's panels.
  template <typename T>
  __device__ __forceinline__ void reduce(const Hooked<T>& hooks, const ToeplitzTiles& tiles,
                                         int channel, int channels, int first_panel,
                                         int column_tile, int lane) const {
    const ToeplitzWindow upper(tiles, lane / 4), lower(tiles, lane / 4 + 8);
#pragma unroll 1
    for (int panel = 0; panel < tiles.panels; ++panel) {
      if (first_panel + panel >= tiles.panel_count) return;
      const int64_t part = int64_t(first_panel + panel) * tiles.column_tiles + column_tile;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        if (m >= hooks.moments) break;
        float total = upper.panel == panel ? moments[0][m] : 0.f;
        if (lower.panel == panel) total += moments[1][m];
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) total += __shfl_xor_sync(0xffffffffu, total, mask);
        if (lane == 0) hooks.store_sum(part, m, channel, channels, total);
      }
    }
  }
};

// In shared memory, from one channel's sums of windows to the next: [moment][window], and one more
// for the sake of the banks.
inline constexpr int kWindowSums = 2 * 16 + 1;

// The sums of a channel of a block, each of a window, over what its warp has stored in its plane.
// Windows are in the order of the strips, so that those of a panel are neighbours.
template <typename T>
__device__ __forceinline__ void sum_windows(float* window_sums, const T* plane,
                                            const DepthwiseImages<T>& p,
                                            const ToeplitzBlocks& tiles,
                                            const ToeplitzBlockPlace& place, int lane) {
  const int columns = min(tiles.tile_columns, p.out_width - place.x);
  // What this lane has stored.
  const T* from = plane + lane / 4 * 8 + lane % 4 * 2;
  ToeplitzSums sums;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int window = lane / 4 + 8 * half;
    const ToeplitzBlockWindow at(tiles, p, place, window);
    const int rows = at.there ? p.out_height - at.row : 0, x = at.column + lane % 4 * 2;
    const int rows_first = x < columns ? rows : 0, rows_second = x + 1 < columns ? rows : 0;
#pragma unroll
    for (int i = 0; i < kToeplitzBlockRows; ++i) {
      float stored[2];
      load_shared_packed<2>(from + kToeplitzOutputPitch * i + 64 * half).widen_to(stored);
      sums.add(half, i < rows_first, stored[0]);
      sums.add(half, i < rows_second, stored[1]);
    }
    const int strip = int(tiles.strip_order >> 4 * (window >> tiles.window_bits)) & 15;
    float* to =
        window_sums + (strip << tiles.window_bits) + (window & ((1 << tiles.window_bits) - 1));
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      float total = sums.moments[half][m];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      if (lane % 4 == 0) store_shared(to + 16 * m, total);
    }
  }
}

// Stores the sums of the block's channels in each of its panels. The caller has synchronised.
template <typename T>
__device__ __forceinline__ void reduce_windows(const float* window_sums, const Hooked<T>& hooks,
                                               const DepthwiseImages<T>& p,
                                               const ToeplitzBlocks& tiles,
                                               const ToeplitzBlockPlace& place) {
  int column_tile = tiles.by_channel_blocks.quotient(blockIdx.x);
  tiles.by_column_tiles.split(column_tile);
  const int row_tile = place.row / kToeplitzBlockRows >> tiles.strip_bits;
  const int windows = 1 << (tiles.window_bits + tiles.strip_bits);
  const int count = place.panels * hooks.moments * kToeplitzBlockChannels;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += 32 * kToeplitzBlockWarps) {
    const int c = i % kToeplitzBlockChannels, other = i / kToeplitzBlockChannels;
    // One or two moments.
    const int panel = other >> (hooks.moments - 1), moment = other & (hooks.moments - 1);
    if (place.first_channel + c >= p.channels) continue;
    const float* from = window_sums + c * kWindowSums + 16 * moment + panel * windows;
    float total = 0.f;
#pragma unroll 1
    for (int window = 0; window < windows; ++window) total += load_shared(from + window);
    const int64_t part =
        int64_t(place.n + panel) * hooks.parts + row_tile * tiles.column_tiles + column_tile;
    hooks.store_sum(part, moment, place.first_channel + c, p.channels, total);
  }
}

}  // namespace effkern
