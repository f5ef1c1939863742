// From a weight gradient over NCHW planes to the tensor-core kernel, where it takes the tensors,
// and how it is cut into blocks. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_mma_kernel.cuh"

namespace effkern {

// Below the 48 KiB that need no opt-in.
inline constexpr int64_t kMaxWeightGradMmaBytes = 46 << 10;

// Shifts of a warp where tiles of 8 input rows are so many.
inline constexpr int weight_grad_mma_shifts(int64_t input_tiles) {
  return input_tiles <= 3 ? 8 : 4;
}

// Tiles of input rows that 16 rows of grad_output meet; where there are no more of them, from the
// first row of the image on.
inline int64_t weight_grad_mma_input_tiles(int64_t height, int64_t out_height, int64_t kernel_h,
                                           int64_t pad_top) {
  int64_t rows = kWeightGradMmaRows - 1 + kernel_h;
  if (out_height <= kWeightGradMmaRows) rows = std::min(height, rows - pad_top);
  return std::max<int64_t>(1, ceil_div(rows, 8));
}

// Blocks that take the columns of a kernel for each channel and split.
inline int64_t weight_grad_mma_group_blocks(int64_t shifts, int64_t input_tiles) {
  return ceil_div(shifts, kWeightGradMmaWarps * weight_grad_mma_shifts(input_tiles));
}

namespace detail {

// The least odd multiple of 8: rows of two segments in different banks.
inline int64_t odd_eights(int64_t columns) { return ceil_div(columns, 8) / 2 * 16 + 8; }

// Elements from image to image, so that segments of lanes lie in different banks.
inline int64_t segment_pitch(int64_t elements, int segments) {
  if (segments == 4) return ceil_div(elements, 8) * 8;
  const int64_t unit = segments == 2 ? 4 : 2;
  return ceil_div(elements, unit) / 2 * 2 * unit + unit;
}

// False if a block has fewer threads than a row has vectors.
inline bool set_copies(WeightGradMmaBox& box, int64_t width, int64_t vector) {
  const int64_t chunks = width / vector, threads = 32 * kWeightGradMmaWarps;
  if (chunks > threads) return false;
  box.width = int(vector);
  box.rows_at_once = int(std::min<int64_t>(threads / chunks, std::max(1, box.rows)));
  box.images_at_once = int(threads / (chunks * box.rows_at_once));
  box.by_chunks = make_divisor(chunks);
  box.by_rows_at_once = make_divisor(box.rows_at_once);
  return true;
}

// With `segments` parts of a row. False if shared memory does not hold them.
inline bool tile_mma_segments(const DepthwiseConv2dProblem& p, int segments, int64_t grad_vector,
                              int64_t input_vector, WeightGradMmaTiles* result) {
  WeightGradMmaTiles tiles{};
  const int64_t height = p.out_height(), width = p.out_width();
  // Copies are as wide as the boxes are aligned.
  const int64_t widest = segments == 4 ? 8 : 2 * segments;
  grad_vector = std::min(grad_vector, widest), input_vector = std::min(input_vector, widest);
  tiles.segments = segments;
  tiles.segment = int(segments == 1 ? ceil_div(width, 2) * 2
                                    : 4 * (ceil_div(ceil_div(width, segments), 2) / 2) + 2);
  const int64_t columns = int64_t(segments) * tiles.segment;
  const bool one_tile = height <= kWeightGradMmaRows;
  tiles.row_offset = one_tile ? 0 : -int(p.pad_top);
  const int64_t input_tiles = weight_grad_mma_input_tiles(p.height, height, p.kernel_h, p.pad_top);
  const int kShifts = weight_grad_mma_shifts(input_tiles);
  tiles.input_tiles = int(input_tiles);

  tiles.input.lead = int(ceil_div(p.pad_left, input_vector) * input_vector);
  tiles.phase = int(tiles.input.lead - p.pad_left) & 1;
  tiles.first_column = int(tiles.input.lead - p.pad_left) - tiles.phase;
  const int64_t shifts = p.kernel_w + tiles.phase, groups = ceil_div(shifts, kShifts);
  tiles.group_bits = groups == 1 ? 0 : groups == 2 ? 1 : 2;
  tiles.groups = 1 << tiles.group_bits;
  tiles.group_blocks = int(ceil_div(groups, tiles.groups));
  // Groups of about the same number of shifts.
  tiles.shifts = int(ceil_div(ceil_div(shifts, int64_t(tiles.groups) * tiles.group_blocks), 2) * 2);
  constexpr int64_t kColumns = kWeightGradMmaColumns;
  const int64_t multiplied = ceil_div(tiles.segment, kColumns) * kColumns;
  const int64_t met = tiles.first_column + columns - tiles.segment + multiplied +
                      (int64_t(tiles.group_blocks) * tiles.groups - 1) * tiles.shifts + kShifts;
  tiles.grad.pitch = int(odd_eights(std::max(columns, width)));
  tiles.input.pitch = int(odd_eights(std::max(met, tiles.input.lead + p.width)));

  const auto grad_pitch = [&](int64_t row_tiles) {
    return segment_pitch(row_tiles * kWeightGradMmaRows * tiles.grad.pitch, segments);
  };
  const auto input_rows = [&](int64_t row_tiles) {
    return (row_tiles - 1) * kWeightGradMmaRows + 8 * input_tiles;
  };
  const auto input_pitch = [&](int64_t row_tiles) {
    return segment_pitch(input_rows(row_tiles) * tiles.input.pitch, segments);
  };
  const auto fits = [&](int64_t row_tiles, int64_t images) {
    return images * (grad_pitch(row_tiles) + input_pitch(row_tiles)) * 2 <= kMaxWeightGradMmaBytes;
  };
  const int64_t at_once = 4 / segments, all_tiles = ceil_div(height, kWeightGradMmaRows);
  int64_t row_tiles = all_tiles;
  while (row_tiles > 1 && !fits(row_tiles, at_once)) --row_tiles;
  if (!fits(row_tiles, at_once)) return false;
  tiles.stages = int(ceil_div(all_tiles, row_tiles));
  row_tiles = ceil_div(all_tiles, tiles.stages);
  tiles.row_tiles = int(row_tiles);
  // As many images as there is room for, and as keep all warps busy.
  const int64_t slots = kWeightGradMmaWarps / tiles.groups;
  int64_t best = 1;
  const auto idle = [&](int64_t n) {
    return double(ceil_div(n * row_tiles, slots) * slots) / double(n * row_tiles);
  };
  for (int64_t n = 2; n <= 8 && (n - 1) * at_once < p.batch && fits(row_tiles, n * at_once); ++n)
    if (idle(n) <= 1.05 * idle(best)) best = n;
  tiles.images = int(best * at_once), tiles.jobs = int(best * row_tiles);

  tiles.grad.image_pitch = int(grad_pitch(row_tiles));
  tiles.input.image_pitch = int(input_pitch(row_tiles));
  const bool one_stage = tiles.stages == 1;
  tiles.grad.rows = int(one_stage ? height : row_tiles * kWeightGradMmaRows);
  tiles.input.first_row = one_stage ? -tiles.row_offset : 0;
  tiles.input.rows =
      int(one_stage ? std::min(p.height, input_rows(row_tiles) - tiles.input.first_row)
                    : input_rows(row_tiles));
  tiles.input.rows = std::max(0, tiles.input.rows);
  if (!set_copies(tiles.grad, width, grad_vector)) return false;
  if (!set_copies(tiles.input, p.width, input_vector)) return false;
  tiles.by_group_blocks = make_divisor(tiles.group_blocks);
  tiles.by_channels = make_divisor(p.in_channels);
  tiles.by_stages = make_divisor(tiles.stages);
  tiles.by_row_tiles = make_divisor(row_tiles);
  *result = tiles;
  return true;
}

// Fewest columns that are multiplied and copies; false if no way fits.
inline bool tile_weight_grad_mma(const DepthwiseConv2dProblem& p, int64_t splits,
                                 int64_t grad_vector, int64_t input_vector,
                                 WeightGradMmaTiles* tiles) {
  double best = 0;
  for (int segments : {4, 2, 1}) {
    WeightGradMmaTiles one{};
    if (!tile_mma_segments(p, segments, grad_vector, input_vector, &one)) continue;
    const int64_t at_once = 4 / segments;
    const double multiplied = double(ceil_div(p.batch, at_once) * at_once) / double(p.batch) *
                              double(segments * ceil_div(one.segment, kWeightGradMmaColumns)) *
                              kWeightGradMmaColumns / double(p.out_width());
    // Instructions per pixel, about.
    const double cost = 7 * multiplied + 8.0 / one.grad.width + 8.0 / one.input.width;
    if (best == 0 || cost < best) best = cost, *tiles = one;
  }
  if (best == 0) return false;
  const int64_t units = ceil_div(p.batch, tiles->images) * tiles->stages;
  tiles->share = int(units / splits), tiles->longer_splits = int(units % splits);
  return true;
}

template <typename T, int kTiles>
cudaError_t launch_weight_grad_mma(const WeightGradImages<T>& images,
                                   const DepthwiseConv2dProblem& p, const WeightGradMmaTiles& tiles,
                                   cudaStream_t stream) {
  constexpr int kShifts = weight_grad_mma_shifts(kTiles);
  const int64_t staged =
      tiles.images * int64_t(tiles.grad.image_pitch + tiles.input.image_pitch) * int64_t(sizeof(T));
  constexpr int64_t kSums =
      kWeightGradMmaWarps * int64_t(sizeof(float)) *
      (8 * kTiles * (kWeightGradMmaRows + 1) + kShifts * kWeightGradMmaTaps + 1);
  return launch_kernel<depthwise_conv2d_contiguous_wgrad_mma_kernel<T, kTiles, kShifts>>(
      grid_of(tiles.group_blocks * p.in_channels * images.splits), dim3(32 * kWeightGradMmaWarps),
      size_t(std::max(ceil_div(staged, 16) * 16, kSums)), stream, images, tiles, int(p.kernel_h),
      int(p.kernel_w));
}

// False if the kernel does not take these tensors, or the device has no such instructions; nothing
// was launched then.
template <typename T>
bool launch_weight_grad_mma(const WeightGradImages<T>& images, const DepthwiseConv2dProblem& p,
                            const Image4<const T>& x, const Image4<const T>& dy,
                            cudaStream_t stream, cudaError_t* error) {
  if (!device_has_capability(80) || !has_toeplitz_cuda_kernel(p) || p.input_numel() == 0 ||
      !has_int_rows(x) || !has_int_rows(dy))
    return false;
  WeightGradMmaTiles tiles{};
  if (!tile_weight_grad_mma(p, images.splits, widest_row_vector(dy), widest_row_vector(x), &tiles))
    return false;
  if (tiles.input_tiles <= 3) {
    *error = launch_weight_grad_mma<T, 3>(images, p, tiles, stream);
  } else if (tiles.input_tiles <= 6) {
    *error = launch_weight_grad_mma<T, 6>(images, p, tiles, stream);
  } else {
    *error = launch_weight_grad_mma<T, 9>(images, p, tiles, stream);
  }
  return true;
}

}  // namespace detail
}  // namespace effkern
