// How the Toeplitz kernels cut their work, and how a warp brings input into shared memory.
//
// A window is 8 neighbouring outputs of a row, a strip is `windows` neighbouring windows times
// `rows` rows, a panel is `strips` strips one below the other in one image, and a warp has `panels`
// panels of one channel at a time. One row of all windows of a warp, at most 16, is the m dimension
// of a tensor-core product.
#pragma once

#include "common/ptx.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

struct ToeplitzTiles {
  int windows, strips, panels, rows;
  // Of an image. A column tile has `tile_columns` outputs, a multiple of 8 where there are several.
  int row_tiles, column_tiles, tile_columns;
  // Panels of one channel and column tile; a warp takes `rounds` times `panels` of them.
  int panel_count, rounds, jobs, warps;
  // Of the first window's first output from the tile's, -7 to 0.
  int first_output;
  // Of the tile's first output from the first staged column.
  int lead;
  // In the product, tap i of output j meets input column i + j + shift of the window.
  int shift;
  // Rows of the input that a strip's outputs meet, counted from the first: those that may lie in
  // the image. `staged_rows` of each panel are in shared memory, from row_begin on.
  int row_begin, row_end, staged_rows, staged_columns;
  // Elements of shared memory from row to row, and from panel to panel.
  int pitch, panel_pitch;
  // Elements of the input per copy.
  int load_width;
  // All pairs of a window's outputs are aligned in memory.
  bool paired;
  // Units of 8 columns in a staged row, and how many rows or panels are copied at once.
  int chunks, rows_at_once, panels_at_once;
  Divisor by_channels, by_column_tiles, by_row_tiles, by_strips, by_windows, by_chunks,
      by_panel_lanes;
};

// Where a panel lies in its channel.
struct ToeplitzPanel {
  int n, row;

  __device__ __forceinline__ ToeplitzPanel(const ToeplitzTiles& tiles, int panel) {
    n = tiles.by_row_tiles.split(panel);
    row = panel * tiles.strips * tiles.rows;
  }
};

namespace detail {

// Up to 8 columns of an image row, zeros where it is not valid. `columns` is a multiple of kWidth.
template <int kWidth, typename T>
__device__ __forceinline__ void copy_chunk(T* to, const T* from, bool valid, int columns) {
  if constexpr (kWidth > 1) {
#pragma unroll
    for (int i = 0; i < 8; i += kWidth) {
      if (i < columns) ptx::cp_async<kWidth * sizeof(T)>(to + i, from + i, valid);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      if (i >= columns) continue;
      T four[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Packed<T, 1> one = load_or_zero<1>(valid && i + j < columns, from + i + j);
        memcpy(static_cast<void*>(four + j), &one.bits, sizeof(T));
      }
      Packed<T, 4> packed;
      memcpy(&packed.bits, static_cast<const void*>(four), sizeof(packed.bits));
      store_shared_packed<4>(to + i, packed);
    }
  }
}

template <int kWidth, typename T>
__device__ __forceinline__ void stage_panels(T* staged, const DepthwiseImages<T>& p,
                                             const ToeplitzTiles& tiles, const T* plane,
                                             int first_panel, int x_first, int lane) {
  int chunk = lane;
  const int lane_panel = tiles.by_panel_lanes.split(chunk), lane_row = tiles.by_chunks.split(chunk);
  if (lane_panel >= tiles.panels_at_once) return;
  const int x = max(x_first, 0) + 8 * chunk;
  const int columns = min(p.width, x_first + tiles.staged_columns) - x;
  const int stride_h = int(p.input_strides.h);
  for (int panel = lane_panel; panel < tiles.panels; panel += tiles.panels_at_once) {
    if (first_panel + panel >= tiles.panel_count) return;
    const ToeplitzPanel at(tiles, first_panel + panel);
    int y = at.row - p.pad_top + tiles.row_begin + lane_row;
    const T* from = plane + int64_t(at.n) * int(p.input_strides.n) + (int64_t(y) * stride_h + x);
    T* to = staged + panel * tiles.panel_pitch + lane_row * tiles.pitch + (x - x_first);
#pragma unroll 1
    for (int row = lane_row; row < tiles.staged_rows; row += tiles.rows_at_once) {
      copy_chunk<kWidth>(to, from, unsigned(y) < unsigned(p.height), columns);
      y += tiles.rows_at_once;
      from += tiles.rows_at_once * stride_h;
      to += tiles.rows_at_once * tiles.pitch;
    }
  }
}

}  // namespace detail

// Starts to copy a warp's panels, from first_panel on, to shared memory. Columns outside the image
// are left as they are, rows outside become zeros. x_first is the image column of the first staged
// one. The caller waits and synchronises.
template <typename T>
__device__ __forceinline__ void stage_panels(T* staged, const DepthwiseImages<T>& p,
                                             const ToeplitzTiles& tiles, const T* plane,
                                             int first_panel, int x_first, int lane) {
  switch (tiles.load_width) {
    case 8:
      return detail::stage_panels<8>(staged, p, tiles, plane, first_panel, x_first, lane);
    case 4:
      return detail::stage_panels<4>(staged, p, tiles, plane, first_panel, x_first, lane);
    case 2:
      return detail::stage_panels<2>(staged, p, tiles, plane, first_panel, x_first, lane);
    default:
      return detail::stage_panels<1>(staged, p, tiles, plane, first_panel, x_first, lane);
  }
}

// `count` elements, a multiple of 8.
template <typename T>
__device__ __forceinline__ void zero_shared(T* to, int count, int thread, int threads) {
  for (int i = 8 * thread; i < count; i += 8 * threads) {
    store_shared_packed<8>(to + i, Packed<T, 8>::zero());
  }
}

// A kernel row's taps in shared memory, twice, so that any two neighbours are one aligned word of
// one of the copies: tap i of kernel row y is at tap_table[y][0][i + 8 + shift] and
// [y][1][i + 7 + shift], zeros around it. kHalves is the number of 8-column parts of a window's
// input.
template <int kHalves>
inline constexpr int kTapPitch = 8 * kHalves + 8;

// The table must be zero. The caller synchronises.
template <int kHalves, typename T>
__device__ __forceinline__ void stage_taps(T* table, const T* weight, int kernel_h, int kernel_w,
                                           bool flip, int shift, int thread, int threads) {
  const int taps = kernel_h * kernel_w;
  for (int i = thread; i < taps; i += threads) {
    const int ky = i / kernel_w, kx = i - ky * kernel_w;
    const Packed<T, 1> tap = load<1>(weight + (flip ? taps - 1 - i : i));
    T* row = table + 2 * ky * kTapPitch<kHalves> + kx + 8 + shift;
    store_shared_packed<1>(row, tap);
    store_shared_packed<1>(row + kTapPitch<kHalves> - 1, tap);
  }
}

// The fragments of a kernel row's Toeplitz matrix B[i][j] = tap[i - j - shift], one register for 8
// rows of it. `pairs` is tap_pairs(table, lane), advanced by kernel rows.
template <int kHalves, typename T>
__device__ __forceinline__ const T* tap_pairs(const T* table, int lane) {
  const int g = lane / 4, odd = g % 2;
  return table + odd * kTapPitch<kHalves> + 2 * (lane % 4) + 8 - g - odd;
}

template <int kHalves, typename T>
__device__ __forceinline__ void load_tap_fragments(const T* pairs, uint32_t (&b)[kHalves]) {
#pragma unroll
  for (int i = 0; i < kHalves; ++i) b[i] = load_shared_packed<2>(pairs + 8 * i).bits;
}

}  // namespace effkern
