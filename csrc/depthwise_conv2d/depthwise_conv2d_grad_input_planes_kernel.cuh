// Input gradient of stride-2 convolutions over NCHW planes, k x k, dilation 1.
//
// In quads, as depthwise_conv2d_grad_input_kernel.cuh has them; memory and blocks are those of
// depthwise_conv2d_direct_planes_kernel.cuh. In DepthwiseImages, `input` is grad_output (height,
// width) and `output` is grad_input (out_height, out_width). A thread computes a tile of quads;
// tiles, groups and strips count rows and columns of grad_input, from that of the first quad on.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_direct_planes_kernel.cuh"

namespace effkern {

// Quads of a thread in each direction.
inline constexpr int kPlaneQuads = 4;

template <typename T, int kKernel>
__global__ void __launch_bounds__(kPlaneThreads, kKernel == 5 ? 1 : 2)
    depthwise_conv2d_contiguous_grad_input_kernel(DepthwiseImages<T> p, PlaneTiles tiles) {
  constexpr int kTaps = kKernel * kKernel, kReach = (kKernel + 1) / 2;
  constexpr int kPixels = 2 * kPlaneQuads, kRowSpan = kPlaneQuads + kReach - 1;
  using Row = detail::PlaneRow<T, kReach, 1, kPlaneQuads, PlaneFit::kAny>;
  static_assert(Row::kSpan <= kZeroColumns);

  // kZeroColumns zeros, then grad_output, and later grad_input.
  EFFKERN_DYNAMIC_SHARED(T, zeros);
  T* const staged = zeros + kZeroColumns;

  const PlaneItem item(tiles);
  const bool whole_planes = tiles.planes > 1, whole_rows = tiles.column_tiles == 1;
  // An odd padding puts the first quad one row or column before the image.
  const int tile_row = item.row_tile * tiles.groups * kPixels - (p.pad_top & 1);
  const int first_column = -(p.pad_left & 1);
  const int tile_column = item.column_tile * tiles.strips * kPixels + first_column;
  // Of the last strip, only columns that the strip before it has not; it ends with the last quad.
  const int wanted_column = tile_column + item.strip * kPixels;
  const int quad_columns = (p.out_width - first_column + 1) / 2;
  const int column = min(wanted_column, first_column + 2 * (quad_columns - kPlaneQuads));
  const int row = tile_row + item.group * kPixels;

  // In grad_output, of the first that a tile reads.
  const int x = (column + p.pad_left) / 2 - (kReach - 1);
  const int y = (row + p.pad_top) / 2 - (kReach - 1);
  const int y0 = (tile_row + p.pad_top) / 2 - (kReach - 1);
  const int left = (tile_column + p.pad_left) / 2 - (kReach - 1) - kPlaneQuads;
  const int right = (tile_column + p.pad_left) / 2 + tiles.strips * kPlaneQuads;
  const PlaneWindow<const T> input(
      p.input, p.input_strides, tiles.input_is_run, whole_planes ? 0 : max(0, y0),
      whole_planes ? p.height : min(p.height, y0 + tiles.groups * kPlaneQuads + kReach - 1),
      whole_rows ? 0 : max(0, left) & -8, whole_rows ? p.width : min(p.width, right));
  const PlaneWindow<T> output(p.output, p.output_strides, tiles.output_is_run, max(0, tile_row),
                              min(p.out_height, tile_row + tiles.groups * kPixels),
                              whole_rows ? 0 : max(0, tile_column),
                              min(p.out_width, tile_column + tiles.strips * kPixels));
  const Row columns(x, p.width);
  if (threadIdx.x < kZeroColumns) store_shared_packed(zeros + threadIdx.x, Packed<T, 1>::zero());

  const int end = min(p.batch * p.channels, item.first_plane + tiles.planes * tiles.rounds);
  PlaneCursor<const T> source(input, item.first_plane, tiles.planes);
  PlaneCursor<T> target(output, item.first_plane, tiles.planes);
#pragma unroll 1
  for (int first_plane = item.first_plane; first_plane < end; first_plane += tiles.planes) {
    const int planes = min(tiles.planes, end - first_plane), plane = min(item.plane, planes - 1);
    move_planes<true>(staged, input, source, tiles.by_channels, first_plane, planes);

    int c = first_plane + plane;
    tiles.by_channels.split(c);
    float taps[kTaps];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap)
      taps[tap] = load_scalar(p.weight + int64_t(c) * kTaps + tap);
    float sums[kPixels][kPixels] = {};
    __syncthreads();

    // A thread without a tile computes one that exists, or from zeros.
    const T* from = staged + source.phase + input.position(plane, y, x);
#pragma unroll
    for (int i = 0; i < kRowSpan; ++i, from += input.pitch) {
      float values[Row::kSpan];
      columns.load(unsigned(y + i - input.first_row) < unsigned(input.rows) ? from : zeros, values);
#pragma unroll
      for (int r = 0; r < kPixels; ++r) {
        // Row r of the tile meets this row of grad_output at tap ky.
        const int ky = r % 2 + 2 * (r / 2 + kReach - 1 - i);
        if (ky < 0 || ky >= kKernel) continue;
#pragma unroll
        for (int kx = 0; kx < kKernel; ++kx) {
#pragma unroll
          for (int q = 0; q < kPlaneQuads; ++q) {
            float& sum = sums[r][2 * q + kx % 2];
            sum = fmaf(values[q + kReach - 1 - kx / 2], taps[ky * kKernel + kx], sum);
          }
        }
      }
    }
    __syncthreads();

    if (item.plane < planes && wanted_column < p.out_width) {
      T* to = staged + target.phase + output.position(plane, row, column);
      const int skipped = max(wanted_column - column, -column), columns_left = p.out_width - column;
#pragma unroll
      for (int r = 0; r < kPixels; ++r, to += output.pitch) {
        if (unsigned(row + r) >= unsigned(p.out_height)) continue;
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
          // Only the last column can be past the image.
          if (j >= skipped && (j < kPixels - 1 || j < columns_left)) {
            store_shared_packed(to + j, pack<1, T>(&sums[r][j]));
          }
        }
      }
    }
    __syncthreads();
    move_planes<false>(staged, output, target, tiles.by_channels, first_plane, planes);
    source.advance(input), target.advance(output);
    __syncthreads();
  }
}

}  // namespace effkern
