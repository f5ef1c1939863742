// From a warp's accumulators to memory, for the Toeplitz kernels.
//
// A lane's fragment holds two neighbouring outputs of window lane / 4, the upper one, and two of
// the lower one, 8 windows further on. The 32 pairs of a store lie side by side where the windows
// do: 128 bytes.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_tile.cuh"

namespace effkern {

// A window of a warp.
struct ToeplitzWindow {
  // Of the warp; the strip's number in its panel; the first output's column in the tile.
  int panel, strip, x;

  __device__ __forceinline__ ToeplitzWindow(const ToeplitzTiles& tiles, int window) {
    strip = tiles.by_windows.split(window);
    panel = tiles.by_strips.split(strip);
    x = 8 * window + tiles.first_output;
  }
};

// Where a lane's pair of a window's outputs goes.
template <typename T>
struct ToeplitzOutput {
  // Of the pair in the strip's first row.
  T* to;
  // Of the strip inside the image, for either of the pair; none outside the image's columns and for
  // a window that is not there.
  int rows_first, rows_second;

  __device__ __forceinline__ ToeplitzOutput(const DepthwiseImages<T>& p, const ToeplitzTiles& tiles,
                                            T* output, int first_panel, int x_tile, int window,
                                            int lane) {
    const ToeplitzWindow at(tiles, window);
    const int panel = first_panel + at.panel;
    const bool valid = at.panel < tiles.panels && panel < tiles.panel_count;
    const ToeplitzPanel place(tiles, valid ? panel : 0);
    const int y = place.row + at.strip * tiles.rows, x = at.x + 2 * (lane % 4);
    const int columns = min(tiles.tile_columns, p.out_width - x_tile);
    const int rows = valid ? min(tiles.rows, p.out_height - y) : 0;
    rows_first = unsigned(x) < unsigned(columns) ? rows : 0;
    rows_second = unsigned(x + 1) < unsigned(columns) ? rows : 0;
    to = output + (int64_t(place.n) * int(p.output_strides.n) +
                   (int64_t(y) * int(p.output_strides.h) + x_tile + x));
  }

  // sums[i][column] and the next to row + i of the strip, where that is inside the image.
  template <int kRows>
  __device__ __forceinline__ void store_pairs(int row, int stride_h, const float (&sums)[kRows][4],
                                              int column) const {
    T* at = to + int64_t(row) * stride_h;
#pragma unroll
    for (int i = 0; i < kRows; ++i, at += stride_h) {
      store_if<2>(row + i < rows_first, at, sums[i] + column);
    }
  }

  template <int kRows>
  __device__ __forceinline__ void store_singles(int row, int stride_h,
                                                const float (&sums)[kRows][4], int column) const {
    T* at = to + int64_t(row) * stride_h;
#pragma unroll
    for (int i = 0; i < kRows; ++i, at += stride_h) {
      store_if<1>(row + i < rows_first, at, sums[i] + column);
      store_if<1>(row + i < rows_second, at + 1, sums[i] + column + 1);
    }
  }
};

// A lane's sums of two windows are no tile: the epilogue must not look at the position.
template <int kRows, typename Epilogue>
__device__ __forceinline__ void finish_sums(float (&sums)[kRows][4], const Epilogue& epilogue,
                                            int channel) {
  float values[4 * kRows];
#pragma unroll
  for (int i = 0; i < 4 * kRows; ++i) values[i] = sums[i / 4][i % 4];
  epilogue.template finish<TileOrder::kRowsColumns, 2 * kRows, 2>(values, {0, channel, 0, 0, 0, 0});
#pragma unroll
  for (int i = 0; i < 4 * kRows; ++i) sums[i / 4][i % 4] = values[i];
}

// Products with the zeros of a Toeplitz matrix are NaN where the input is infinite or NaN, which
// must not reach its neighbours. Then all of a window's sums are infinite or NaN: one of them
// tells.
template <int kRows>
__device__ __forceinline__ bool has_infinite_windows(const float (&sums)[kRows][4]) {
  float zero = 0.f;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    zero = fmaf(sums[i][0], 0.f, zero);
    zero = fmaf(sums[i][2], 0.f, zero);
  }
  return !(zero == 0.f);
}

// The sums of a warp's windows, from first_window on, once more, tap by tap, from the staged input
// and taps. `row` is the first sums' in the strip.
template <int kHalves, int kRows, typename T>
__device__ __forceinline__ void sum_taps(float (&sums)[kRows][4], const T* staged, const T* table,
                                         const DepthwiseImages<T>& p, const ToeplitzTiles& tiles,
                                         int kernel_h, int kernel_w, int first_window, int row,
                                         int lane) {
#pragma unroll 1
  for (int i = 0; i < kRows; ++i) {
    float done[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const ToeplitzWindow at(tiles, first_window + lane / 4 + 8 * half);
      const int y = at.strip * tiles.rows + row + i - tiles.row_begin;
      const int x = at.x + 2 * (lane % 4) - p.pad_left + tiles.lead;
      float a = 0.f, b = 0.f;
#pragma unroll 1
      for (int ky = 0; ky < kernel_h; ++ky) {
        if (at.panel >= tiles.panels || unsigned(y + ky) >= unsigned(tiles.staged_rows)) continue;
        const T* from = staged + at.panel * tiles.panel_pitch + (y + ky) * tiles.pitch + x;
        const T* taps = table + 2 * ky * kTapPitch<kHalves> + 8 + tiles.shift;
#pragma unroll 1
        for (int kx = 0; kx < kernel_w; ++kx) {
          float tap[1], left[1], right[1];
          load_shared_packed<1>(taps + kx).widen_to(tap);
          load_shared_packed<1>(from + kx).widen_to(left);
          load_shared_packed<1>(from + kx + 1).widen_to(right);
          a = fmaf(left[0], tap[0], a);
          b = fmaf(right[0], tap[0], b);
        }
      }
      done[2 * half] = a, done[2 * half + 1] = b;
    }
    // The array moves up by one row, so that registers can hold it.
#pragma unroll
    for (int j = 0; j < kRows - 1; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[j][k] = sums[j + 1][k];
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[kRows - 1][k] = done[k];
  }
}

}  // namespace effkern
