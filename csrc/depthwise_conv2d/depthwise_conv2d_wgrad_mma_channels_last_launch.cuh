// From a weight gradient over channels_last images to the tensor-core kernel, where it takes the
// tensors, and how it is cut into blocks. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_mma_channels_last_kernel.cuh"

namespace effkern {

// Two on each SM of a large GPU.
inline constexpr int64_t kCellBlocks = 264;
// Rows of a tile, where images are so few that they are cut.
inline constexpr int64_t kLeastCellRows = 28;

inline int64_t cell_channel_blocks(int64_t channels) {
  return ceil_div(channels, kCellGroups * kCellChannels);
}

// Partial sums of each tap; depends on the problem alone.
inline int64_t wanted_cell_splits(const DepthwiseConv2dProblem& p) {
  return kCellBlocks / std::max<int64_t>(1, cell_channel_blocks(p.out_channels));
}

namespace detail {

// Picoseconds of an H200 per row of 16 channels, by the terms of the prediction, without DRAM:
// tensor cores, L2.
inline double cell_row_cost(const DepthwiseConv2dProblem& p, int reach, int64_t column_tiles,
                            int64_t images) {
  const double flops = kCellGroups * kCellStrips * double(p.kernel_h * (reach + 2)) / 4 * 4096;
  const double pixels = double(p.out_width() + p.width + (column_tiles - 1) * reach);
  return std::max(flops * double(column_tiles) / double(images) / 450, pixels * 32 / 4.1);
}

// `reach`: pixels that a row of the input has more than one of grad_output. `apart`: the most
// elements from image to image.
inline WeightGradCells tile_cells(const DepthwiseConv2dProblem& p, int reach, int64_t apart,
                                  int64_t splits) {
  WeightGradCells tiles{};
  const int64_t width = p.out_width();
  // Offsets in a block are ints.
  const int64_t most = std::clamp<int64_t>(kMaxInt / 2 / std::max<int64_t>(1, apart), 1, p.batch);
  int64_t column_tiles = 0;
  double best = -1;
  for (int64_t cells = kMostCells; cells >= 1; --cells) {
    const int64_t n = ceil_div(width, kCellPixels * cells);
    // As narrow as this number of tiles allows.
    if (ceil_div(ceil_div(width, n), kCellPixels) != cells) continue;
    const int64_t images = std::min<int64_t>({kMostCells / cells, kMostCellImages, most});
    const double cost = cell_row_cost(p, reach, n, images);
    if (best >= 0 && cost >= best) continue;
    best = cost, column_tiles = n;
    tiles.images = int(images), tiles.cells = int(cells);
  }
  const int64_t groups = ceil_div(p.batch, tiles.images) * column_tiles;
  const int64_t row_tiles =
      std::clamp<int64_t>(ceil_div(splits, groups), 1, ceil_div(p.out_height(), kLeastCellRows));
  tiles.rows = int(ceil_div(p.out_height(), row_tiles));
  tiles.row_tiles = int(ceil_div(p.out_height(), tiles.rows));
  // 8 cells apart from image to image as they are in a row, and groups a quarter of the banks
  // apart.
  const auto group_cells = [](int64_t cells) { return int(ceil_div(cells, 8) * 8 + 2); };
  tiles.input_pitch = tiles.cells + 8;
  tiles.input_group = group_cells(int64_t(tiles.images) * tiles.input_pitch);
  tiles.grad_group = group_cells(int64_t(tiles.images) * tiles.cells);
  tiles.grad_begin = kCellGroups * tiles.input_group * kCellElements;
  tiles.stage = tiles.grad_begin + kCellGroups * tiles.grad_group * kCellElements;
  const int64_t units = groups * tiles.row_tiles;
  tiles.share = int(units / splits), tiles.longer_splits = int(units % splits);
  tiles.by_channel_blocks = make_divisor(cell_channel_blocks(p.in_channels));
  tiles.by_column_tiles = make_divisor(column_tiles);
  tiles.by_row_tiles = make_divisor(tiles.row_tiles);
  tiles.by_grad_columns = make_divisor(kCellPixels * tiles.cells);
  tiles.by_input_columns = make_divisor(kCellPixels * tiles.cells + reach);
  return tiles;
}

template <int kKernel, typename T>
cudaError_t launch_weight_grad_cells(const WeightGradImages<T>& images,
                                     const DepthwiseConv2dProblem& p, cudaStream_t stream) {
  const int64_t apart = std::max(images.input_strides.n, images.grad_output_strides.n);
  const WeightGradCells tiles = tile_cells(p, kCellReach<kKernel>, apart, images.splits);
  const int64_t staged = kCellStages * int64_t(tiles.stage) * int64_t(sizeof(T));
  constexpr int64_t kSums = kCellStrips * kCellPixels * kCellGroups * kCellChannels *
                            (kKernel * kKernel + 1) * int64_t(sizeof(float));
  return launch_kernel<depthwise_conv2d_channels_last_wgrad_mma_kernel<T, kKernel>>(
      grid_of(cell_channel_blocks(p.in_channels) * images.splits), dim3(kCellThreads),
      size_t(std::max(staged, kSums)), stream, images, tiles);
}

// Whether the kernel takes these tensors, and the device has its instructions.
template <typename T>
bool takes_weight_grad_cells(const DepthwiseConv2dProblem& p, const Image4<const T>& x,
                             const Image4<const T>& dy) {
  // Offsets in a row's tile are ints.
  constexpr int64_t kWidest = kMaxInt / 2 / (2 * kCellCopies);
  return has_channels_last_weight_grad_mma_kernel(p) &&
         std::max(x.strides.w, dy.strides.w) <= kWidest && x.has_channel_vectors(kCellChannels) &&
         dy.has_channel_vectors(kCellChannels) && device_has_capability(80);
}

template <typename T>
cudaError_t launch_weight_grad_cells(const WeightGradImages<T>& images,
                                     const DepthwiseConv2dProblem& p, cudaStream_t stream) {
  if (p.kernel_h == 3) return launch_weight_grad_cells<3>(images, p, stream);
  return p.kernel_h == 5 ? launch_weight_grad_cells<5>(images, p, stream)
                         : launch_weight_grad_cells<7>(images, p, stream);
}

}  // namespace detail
}  // namespace effkern
