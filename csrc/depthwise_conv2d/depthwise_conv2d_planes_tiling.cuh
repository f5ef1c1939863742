// How a launch over NCHW planes is cut into blocks. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_direct_planes_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"

namespace effkern {

// Enough blocks for two on each SM of a large GPU.
inline constexpr int64_t kTargetPlaneBlocks = 264;

struct PlaneLaunch {
  PlaneTiles tiles;
  int64_t blocks, shared_memory;
  int threads;
};

// Rows lie one behind the other without gaps, planes at equal distances; `together`: planes too.
template <typename T>
bool planes_are_run(const Image4<T>& image, int64_t batch, bool together) {
  const Strides4& s = image.strides;
  return s.h == image.width && (!together || s.c == image.height * image.width) &&
         (batch == 1 || s.n == s.c * image.channels);
}

// Threads of a block, at most; of a launch in several rounds, at least; and whether a block's
// output has shared memory of its own, beside that of its input.
struct PlaneBlocks {
  int64_t threads, launched_threads;
  bool apart;

  // Of the elements of both.
  int64_t elements(int64_t input, int64_t output) const {
    return apart ? input + output : std::max(input, output);
  }
};

// Threads that compute `rows` x `columns` outputs each, all_groups x all_strips a plane.
// needed_rows(groups) and needed_columns(strips) are the most that some of them read.
template <typename T, typename InRows, typename InColumns>
PlaneLaunch tile_planes(int64_t batch, const Image4<const T>& input, const Image4<T>& output,
                        int64_t all_groups, int64_t all_strips, int rows, int columns,
                        InRows needed_rows, InColumns needed_columns,
                        PlaneBlocks limits = {kPlaneThreads, 0, false}) {
  const int64_t planes = batch * input.channels;
  constexpr int64_t kMost = kMaxStagedBytes / sizeof(T) - 2 * kZeroColumns;
  const auto in_columns = [&](int64_t strips) {
    return strips == all_strips ? input.width : needed_columns(strips);
  };
  const auto in_rows = [&](int64_t groups) {
    return std::min<int64_t>(input.height, needed_rows(groups));
  };
  const auto staged = [&](int64_t groups, int64_t strips) {
    return limits.elements(
        in_rows(groups) * (in_columns(strips) + 7),
        std::min<int64_t>(groups * rows, output.height) * (strips * columns + 7));
  };

  PlaneLaunch launch{};
  PlaneTiles& tiles = launch.tiles;
  int64_t strips = all_strips, groups = all_groups;
  while (strips > 1 && (strips > limits.threads || staged(1, strips) > kMost)) {
    ++tiles.column_tiles;
    strips = ceil_div(all_strips, tiles.column_tiles);
  }
  tiles.column_tiles = int(ceil_div(all_strips, strips));
  while (groups > 1 && (groups * strips > limits.threads || staged(groups, strips) > kMost)) {
    ++tiles.row_tiles;
    groups = ceil_div(all_groups, tiles.row_tiles);
  }
  tiles.row_tiles = int(ceil_div(all_groups, groups));
  tiles.strips = int(strips), tiles.groups = int(groups);

  // Of a whole plane; rows that are no run start at vectors.
  const bool input_run = planes_are_run(input, batch, true);
  const bool output_run = planes_are_run(output, batch, true);
  const int64_t plane = limits.elements(input.height * (input.width + (input_run ? 0 : 7)),
                                        output.height * (output.width + (output_run ? 0 : 7)));
  // Planes that leave few lanes of the last warp idle.
  const int64_t threads = strips * groups;
  tiles.planes = 1;
  if (tiles.row_tiles == 1 && tiles.column_tiles == 1) {
    const int64_t together = std::max<int64_t>(
        1, std::min({planes, limits.threads / threads, kMost / plane,
                     std::max(ceil_div(planes, kTargetPlaneBlocks), ceil_div(32, threads))}));
    double best = 0;
    for (int64_t n = 1; n <= together; ++n) {
      const double filled = double(n * threads) / double(ceil_div(n * threads, 32) * 32);
      if (filled >= best) best = filled, tiles.planes = int(n);
    }
  }
  launch.threads = int(ceil_div(tiles.planes * threads, 32) * 32);
  // What is computed once per block costs less in several rounds.
  const int64_t tiles_per_plane = int64_t(tiles.row_tiles) * tiles.column_tiles;
  const int64_t rounds = ceil_div(planes, tiles.planes);
  const int64_t wanted = std::max(kTargetPlaneBlocks, limits.launched_threads / launch.threads);
  tiles.rounds = int(std::clamp<int64_t>(rounds * tiles_per_plane / wanted, 1, 8));
  launch.blocks = ceil_div(rounds, tiles.rounds) * tiles_per_plane;
  const int64_t elements = tiles.planes > 1 ? tiles.planes * plane : staged(groups, strips);
  launch.shared_memory = (elements + 2 * kZeroColumns) * int64_t(sizeof(T));
  const bool whole_rows = tiles.column_tiles == 1;
  tiles.input_is_run = whole_rows && planes_are_run(input, batch, tiles.planes > 1);
  tiles.output_is_run = whole_rows && planes_are_run(output, batch, tiles.planes > 1);
  tiles.by_channels = make_divisor(input.channels);
  tiles.by_row_tiles = make_divisor(tiles.row_tiles);
  tiles.by_column_tiles = make_divisor(tiles.column_tiles);
  tiles.by_groups = make_divisor(groups);
  tiles.by_strips = make_divisor(strips);
  return launch;
}

// The same of a convolution.
template <typename T>
PlaneLaunch tile_planes(int64_t batch, const Image4<const T>& input, const Image4<T>& output,
                        int kernel_size, int stride, int rows, int columns) {
  return tile_planes(
      batch, input, output, ceil_div(output.height, rows), ceil_div(output.width, columns), rows,
      columns, [=](int64_t groups) { return (groups * rows - 1) * stride + kernel_size; },
      [=](int64_t strips) { return (strips + 2) * columns * stride + kernel_size + 16; });
}

}  // namespace effkern
