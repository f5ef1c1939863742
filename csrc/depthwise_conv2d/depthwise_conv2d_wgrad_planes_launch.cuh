// From a weight gradient over NCHW planes to one instantiation, and how it is cut into blocks.
// Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_planes_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_planes_kernel.cuh"

namespace effkern {

struct WeightGradPlaneLaunch {
  WeightGradPlanes tiles;
  int64_t blocks, shared_memory;
  int threads;
};

namespace detail {

// Threads that take `rows` x `columns` of grad_output each.
template <typename T>
WeightGradPlaneLaunch tile_weight_grad_planes(int64_t batch, int64_t splits,
                                              const Image4<const T>& input,
                                              const Image4<const T>& grad, int kernel_size,
                                              int stride, int rows, int columns) {
  const int64_t all_strips = ceil_div(grad.width, columns);
  const int64_t all_groups = ceil_div(grad.height, rows);
  constexpr int64_t kMost = kMaxStagedBytes / sizeof(T) - kZeroColumns;
  // Pitches of views are whole vectors; the start of a run is where a vector is not.
  const auto pitch = [&](int64_t width) { return ceil_div(width, 8) * 8; };
  const auto input_elements = [&](int64_t groups, int64_t strips) {
    const int64_t needed_rows = (groups * rows - 1) * stride + kernel_size;
    const int64_t needed_columns = (strips + 2) * columns * stride + kernel_size + 16;
    return std::min(input.height, needed_rows) *
               pitch(strips == all_strips ? input.width : needed_columns) +
           8;
  };
  const auto grad_elements = [&](int64_t groups, int64_t strips) {
    return std::min(grad.height, groups * rows) *
               pitch(strips == all_strips ? grad.width : (strips + 1) * columns + 8) +
           8;
  };
  const auto staged = [&](int64_t groups, int64_t strips) {
    return input_elements(groups, strips) + grad_elements(groups, strips);
  };

  WeightGradPlaneLaunch launch{};
  WeightGradPlanes& tiles = launch.tiles;
  int64_t strips = all_strips, groups = all_groups;
  while (strips > 1 && (strips > kWeightGradPlaneThreads || staged(1, strips) > kMost)) {
    ++tiles.column_tiles;
    strips = ceil_div(all_strips, tiles.column_tiles);
  }
  tiles.column_tiles = int(ceil_div(all_strips, strips));
  while (groups > 1 &&
         (groups * strips > kWeightGradPlaneThreads || staged(groups, strips) > kMost)) {
    ++tiles.row_tiles;
    groups = ceil_div(all_groups, tiles.row_tiles);
  }
  tiles.row_tiles = int(ceil_div(all_groups, groups));
  tiles.strips = int(strips), tiles.groups = int(groups);

  // Dense planes are runs without gaps between rows.
  const bool whole_rows = tiles.column_tiles == 1;
  const bool whole_planes = whole_rows && tiles.row_tiles == 1;
  const auto is_run = [&](const Image4<const T>& image, bool together) {
    return whole_rows && image.strides.h == image.width &&
           (!together || image.strides.c == image.height * image.width);
  };
  const auto plane = [&](const Image4<const T>& image) {
    return image.height * (is_run(image, true) ? image.width : pitch(image.width));
  };
  const int64_t input_plane = plane(input), grad_plane = plane(grad);
  const int64_t plane_threads = strips * groups;
  // As few channels as leave few lanes of the last warp idle.
  tiles.channels = 1;
  if (whole_planes) {
    const int64_t most = std::min({input.channels, kWeightGradPlaneThreads / plane_threads,
                                   (kMost - 32) / (input_plane + grad_plane)});
    double best = 0;
    for (int64_t n = 1; n <= most; ++n) {
      const double filled = double(n * plane_threads) / double(ceil_div(n * plane_threads, 32));
      if (filled > 1.05 * best) best = filled, tiles.channels = int(n);
    }
  }
  const auto rounded = [](int64_t elements) { return int(ceil_div(elements, 8) * 8); };
  if (tiles.channels > 1) {
    tiles.input_elements = rounded(tiles.channels * input_plane + 8);
    tiles.grad_elements = rounded(tiles.channels * grad_plane + 8);
  } else {
    tiles.input_elements = rounded(input_elements(groups, strips));
    tiles.grad_elements = rounded(grad_elements(groups, strips));
  }
  tiles.input_is_run = is_run(input, tiles.channels > 1);
  tiles.grad_is_run = is_run(grad, tiles.channels > 1);
  tiles.threads = int(ceil_div(tiles.channels * plane_threads, 32) * 32);

  // As many images as a block has room for and its share is made of.
  const int64_t per_image = tiles.input_elements + tiles.grad_elements;
  const int64_t units = batch * tiles.row_tiles * tiles.column_tiles;
  const int64_t share = std::max<int64_t>(1, ceil_div(units, splits));
  tiles.share = int(units / splits), tiles.longer_splits = int(units % splits);
  const int64_t most_images = std::max<int64_t>(
      1, std::min({share, int64_t(kWeightGradPlaneThreads / tiles.threads), kMost / per_image}));
  tiles.images = int(ceil_div(share, ceil_div(share, most_images)));
  launch.threads = tiles.threads * tiles.images;
  launch.shared_memory = std::max<int64_t>(
      (kZeroColumns + tiles.images * per_image) * int64_t(sizeof(T)),
      int64_t(launch.threads) * (kernel_size * kernel_size + 1) * int64_t(sizeof(float)));
  // Without images, zeros are written; a problem without channels is cut, but never launched.
  const int64_t channels = std::max<int64_t>(1, input.channels);
  tiles.channel_blocks = int(ceil_div(channels, tiles.channels));
  launch.blocks = tiles.channel_blocks * splits;
  tiles.by_channel_blocks = make_divisor(tiles.channel_blocks);
  tiles.by_threads = make_divisor(tiles.threads);
  tiles.by_plane_threads = make_divisor(plane_threads);
  tiles.by_groups = make_divisor(groups);
  tiles.by_strips = make_divisor(strips);
  tiles.by_batch = make_divisor(std::max<int64_t>(1, batch));
  tiles.by_column_tiles = make_divisor(tiles.column_tiles);
  tiles.by_channels = make_divisor(channels);
  return launch;
}

// Calls function(rows, columns, fit) with a thread's tile.
template <typename T, int kKernel, int kStride, typename Function>
auto with_weight_grad_tile(PlaneShape shape, Function function) {
  if constexpr (kKernel == 3 && kStride == 1) {
    if constexpr (sizeof(T) == 2) {
      if (shape == PlaneShape::kEights)
        return function(Int<7>(), Int<8>(), Fit<PlaneFit::kVectors>());
      if (shape == PlaneShape::kFours)
        return function(Int<14>(), Int<4>(), Fit<PlaneFit::kVectors>());
    }
    if (shape == PlaneShape::kSevens) return function(Int<7>(), Int<7>(), Fit<PlaneFit::kWhole>());
    return function(Int<10>(), Int<5>(), Fit<PlaneFit::kAny>());
  } else if constexpr (kKernel == 3) {
    if (shape == PlaneShape::kFives) return function(Int<5>(), Int<5>(), Fit<PlaneFit::kAny>());
    return function(Int<7>(), Int<7>(), Fit<PlaneFit::kAny>());
  } else {
    // More masks than kSame has do not fit beside the taps.
    return function(Int<7>(), Int<7>(), Fit<PlaneFit::kSame>());
  }
}

template <typename T>
PlaneShape choose_weight_grad_shape(const DepthwiseConv2dProblem& p, const Image4<const T>& x,
                                    const Image4<const T>& dy) {
  const auto computed = [&](int64_t size) {
    return ceil_div(dy.height, size) * ceil_div(dy.width, size) * size * size;
  };
  DepthwiseImages<T> images{};
  images.height = int(p.height), images.width = int(p.width);
  images.out_height = int(p.out_height()), images.out_width = int(p.out_width());
  images.pad_top = int(p.pad_top), images.pad_left = int(p.pad_left);
  const int64_t right = (dy.width - 1) * p.stride_w + p.kernel_w - p.pad_left - p.width;
  if (p.kernel_w > 3 && std::max(p.pad_left, right) > p.kernel_w / 2) return PlaneShape::kNone;
  const PlaneShape shape = choose_plane_shape(images, x, dy, p.kernel_h, p.stride_h);
  if (shape >= PlaneShape::kSevens) {
    // Their lanes have neighbours, or end with the image, where a block has whole rows.
    const auto column_tiles = [&](auto rows, auto columns, auto) {
      return tile_weight_grad_planes(p.batch, 1, x, dy, 3, 1, decltype(rows)::value,
                                     decltype(columns)::value)
          .tiles.column_tiles;
    };
    if (with_weight_grad_tile<T, 3, 1>(shape, column_tiles) > 1) return PlaneShape::kAny;
  }
  const bool fives = p.kernel_h == 3 && p.stride_h == 2 && computed(5) < computed(7);
  return shape == PlaneShape::kAny && fives ? PlaneShape::kFives : shape;
}

// Blocks of the launch for dense planes, without regard to splits.
template <typename T, int kKernel, int kStride>
int64_t dense_plane_blocks(const DepthwiseConv2dProblem& p) {
  const auto dense = [&](int64_t height, int64_t width) {
    const int64_t plane = height * width;
    const Strides4 strides{p.in_channels * plane, plane, width, 1};
    return Image4<const T>{nullptr, p.in_channels, height, width, strides};
  };
  const auto x = dense(p.height, p.width), dy = dense(p.out_height(), p.out_width());
  const PlaneShape shape = choose_weight_grad_shape(p, x, dy);
  if (shape == PlaneShape::kNone) return p.out_channels;
  return with_weight_grad_tile<T, kKernel, kStride>(shape, [&](auto rows, auto columns, auto) {
    return tile_weight_grad_planes(p.batch, 1, x, dy, kKernel, kStride, decltype(rows)::value,
                                   decltype(columns)::value)
        .blocks;
  });
}

template <typename T, int kKernel, int kStride>
cudaError_t launch_weight_grad_planes(const WeightGradImages<T>& images, PlaneShape shape,
                                      const Image4<const T>& x, const Image4<const T>& dy,
                                      cudaStream_t stream) {
  return with_weight_grad_tile<T, kKernel, kStride>(shape, [&](auto rows, auto columns, auto fit) {
    constexpr int kRows = decltype(rows)::value, kColumns = decltype(columns)::value;
    const auto launch = tile_weight_grad_planes(images.batch, images.splits, x, dy, kKernel,
                                                kStride, kRows, kColumns);
    return launch_kernel(depthwise_conv2d_contiguous_wgrad_kernel<T, kKernel, kStride, kRows,
                                                                  kColumns, decltype(fit)::value>,
                         grid_of(launch.blocks), dim3(launch.threads), launch.shared_memory, stream,
                         images, launch.tiles);
  });
}

}  // namespace detail
}  // namespace effkern
