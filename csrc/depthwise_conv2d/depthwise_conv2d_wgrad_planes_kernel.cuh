// Partial sums of the weight and bias gradient over NCHW planes, kernels k x k with stride 1 or 2
// and dilation 1; workspace and splits are those of depthwise_conv2d_wgrad_kernel.cuh.
//
// A block owns some neighbouring channels and a share of the images. Planes of input and
// grad_output, or rows of them, are copied to shared memory as they are; a thread multiplies the
// same tile of grad_output of one channel, image after image, with the input around it, and keeps
// the sums of all taps in registers. Rows and columns outside are as in
// depthwise_conv2d_direct_planes_kernel.cuh.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_direct_planes_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_kernel.cuh"

namespace effkern {

inline constexpr int kWeightGradPlaneThreads = 128;
// Threads that add up one tap of one channel.
inline constexpr int kSummingThreads = 8;

// A block takes `channels` planes of `images` images at a time. `threads` (whole warps) copy those
// of one image and compute them, in tiles of `strips` columns and `groups` rows a plane; several
// channels only where planes are whole.
struct WeightGradPlanes {
  int channels, images, threads;
  int groups, strips;
  int channel_blocks, row_tiles, column_tiles;
  // Images of a split, over all tiles; one more for the first splits.
  int share, longer_splits;
  // Of shared memory, for one image.
  int input_elements, grad_elements;
  bool input_is_run, grad_is_run;
  Divisor by_channel_blocks, by_threads, by_plane_threads, by_groups, by_strips, by_batch,
      by_column_tiles, by_channels;
};

namespace detail {

// A row of a thread's tile of grad_output.
template <typename T, int kColumns, PlaneFit kFit>
struct GradRow {
  static constexpr bool kMasked = kFit == PlaneFit::kAny || kFit == PlaneFit::kSame;
  using Bits = typename Packed<T, 1>::Bits;

  // All ones, but for columns that another thread has.
  Bits own[kMasked ? kColumns : 1];

  __device__ __forceinline__ explicit GradRow(int skipped) {
#pragma unroll
    for (int j = 0; j < (kMasked ? kColumns : 1); ++j)
      own[j] = j >= skipped ? Bits(~Bits(0)) : Bits(0);
  }

  __device__ __forceinline__ void load(const T* from, float (&values)[kColumns]) const {
    if constexpr (kFit == PlaneFit::kVectors) {
      load_shared_packed<kColumns>(from).widen_to(values);
    } else {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        Packed<T, 1> packed = load_shared_packed<1>(from + j);
        if (kMasked) packed.bits &= own[j];
        float value[1];
        packed.widen_to(value);
        values[j] = value[0];
      }
    }
  }
};

}  // namespace detail

template <typename T, int kKernel, int kStride, int kRows, int kColumns, PlaneFit kFit>
__global__ void __launch_bounds__(kWeightGradPlaneThreads, kKernel == 3 ? 4 : 3)
    depthwise_conv2d_contiguous_wgrad_kernel(WeightGradImages<T> p, WeightGradPlanes tiles) {
  using Row = detail::PlaneRow<T, kKernel, kStride, kColumns, kFit>;
  constexpr int kTaps = kKernel * kKernel;
  constexpr int kRowSpan = (kRows - 1) * kStride + kKernel;
  // Where the row of zeros starts, as seen from a thread's first column.
  constexpr int kZeroRow = Row::kVectors ? 8 - Row::kBefore : 0;
  static_assert(kZeroRow + Row::kSpan <= kZeroColumns);

  // kZeroColumns zeros, then planes of input and grad_output for each image; the sums at the end.
  EFFKERN_DYNAMIC_SHARED(T, zeros);

  const int split = tiles.by_channel_blocks.quotient(blockIdx.x);
  const int first_channel = (blockIdx.x - split * tiles.channel_blocks) * tiles.channels;
  const int channels = min(tiles.channels, p.channels - first_channel);
  const int image = tiles.by_threads.quotient(threadIdx.x);
  const CopyThreads threads{int(threadIdx.x) - image * tiles.threads, tiles.threads};
  const int all_groups = tiles.by_strips.quotient(threads.index);
  const int strip = threads.index - all_groups * tiles.strips;
  const int wanted_plane = tiles.by_groups.quotient(all_groups);
  const int group = all_groups - wanted_plane * tiles.groups;
  // A thread without a plane computes sums that nobody reads.
  const int plane = min(wanted_plane, channels - 1);

  T* const staged_input =
      zeros + kZeroColumns + image * (tiles.input_elements + tiles.grad_elements);
  T* const staged_grad = staged_input + tiles.input_elements;
  if (threadIdx.x < kZeroColumns) store_shared_packed(zeros + threadIdx.x, Packed<T, 1>::zero());

  float sums[kTaps + 1] = {};
  const int begin = split * tiles.share + min(split, tiles.longer_splits);
  const int end = begin + tiles.share + (split < tiles.longer_splits ? 1 : 0);
  const bool whole_planes = tiles.channels > 1, whole_rows = tiles.column_tiles == 1;
  // Images of one tile after the other.
#pragma unroll 1
  for (int unit = begin; unit < end;) {
    const int tile = tiles.by_batch.quotient(unit), first_image = unit - tile * p.batch;
    const int end_image = min(p.batch, first_image + end - unit);
    unit += end_image - first_image;
    const int tile_group = tiles.by_column_tiles.quotient(tile);
    const int tile_row = tile_group * tiles.groups * kRows;
    const int tile_column = (tile - tile_group * tiles.column_tiles) * tiles.strips * kColumns;
    const int tile_rows = min(tiles.groups * kRows, p.out_height - tile_row);
    const int wanted_column = tile_column + strip * kColumns;
    const int column = kFit == PlaneFit::kWhole || Row::kVectors
                           ? wanted_column
                           : min(wanted_column, p.out_width - kColumns);
    const int row = tile_row + group * kRows;
    const int x = column * kStride - p.pad_left, y = row * kStride - p.pad_top;
    const int y0 = tile_row * kStride - p.pad_top;
    const int left = (tile_column - kColumns) * kStride - p.pad_left;
    const int right = (tile_column + tiles.strips * kColumns) * kStride + kKernel - p.pad_left;
    PlaneWindow<const T> input(
        p.input, p.input_strides, tiles.input_is_run, whole_planes ? 0 : max(0, y0),
        whole_planes ? p.height : min(p.height, y0 + (tile_rows - 1) * kStride + kKernel),
        whole_rows ? 0 : max(0, left) & -8, whole_rows ? p.width : min(p.width, right));
    PlaneWindow<const T> grad(p.grad_output, p.grad_output_strides, tiles.grad_is_run, tile_row,
                              tile_row + tile_rows,
                              whole_rows ? 0 : max(0, tile_column - kColumns) & -8,
                              min(p.out_width, tile_column + tiles.strips * kColumns));
    const Row columns(x, p.width);
    const detail::GradRow<T, kColumns, kFit> grad_columns(wanted_column - column);
    PlaneCursor<const T> input_cursor(input, first_channel, 0);
    PlaneCursor<const T> grad_cursor(grad, first_channel, 0);
    input_cursor.skip(input, first_image + image), grad_cursor.skip(grad, first_image + image);
    const int input_position = input.position(plane, y, x);
    const int grad_position = grad.position(plane, row, column);

#pragma unroll 1
    for (int n = first_image + image; n < end_image + image; n += tiles.images) {
      if (n < end_image) {
        const int first_plane = n * p.channels + first_channel;
        move_planes<true>(staged_input, input, input_cursor, tiles.by_channels, first_plane,
                          channels, threads);
        move_planes<true>(staged_grad, grad, grad_cursor, tiles.by_channels, first_plane, channels,
                          threads);
      }
      __syncthreads();

      // Warps of an image that is there; of whole tiles, threads whose rows are.
      if (n < end_image && (kFit != PlaneFit::kWhole || row < p.out_height)) {
        const T* from = staged_input + input_cursor.phase + input_position;
        const T* grad_from = staged_grad + grad_cursor.phase + grad_position;
        float grads[kRows][kColumns];
#pragma unroll
        for (int i = 0; i < kRowSpan; ++i, from += input.pitch) {
          if (i % kStride == 0 && i / kStride < kRows) {
            const bool inside = kFit == PlaneFit::kWhole || row + i / kStride < p.out_height;
            grad_columns.load(inside ? grad_from : zeros, grads[i / kStride]);
            grad_from += grad.pitch;
            // Also where nobody asks for it: a branch would double the code.
#pragma unroll
            for (int j = 0; j < kColumns; ++j) sums[kTaps] += grads[i / kStride][j];
          }
          float values[Row::kSpan];
          // Rows of whole tiles are inside the image, but for the first and the last.
          const bool inside =
              (kFit == PlaneFit::kWhole && i >= kKernel - 1 && i <= kRowSpan - kKernel) ||
              unsigned(y + i - input.first_row) < unsigned(input.rows);
          columns.load(inside ? from : zeros + kZeroRow, values);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const int ky = i - r * kStride;
            if (ky < 0 || ky >= kKernel) continue;
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
#pragma unroll
              for (int kx = 0; kx < kKernel; ++kx) {
                float& sum = sums[ky * kKernel + kx];
                sum = fmaf(values[j * kStride + kx], grads[r][j], sum);
              }
            }
          }
        }
      }
      __syncthreads();
      input_cursor.skip(input, tiles.images), grad_cursor.skip(grad, tiles.images);
    }
  }

  // All threads of a channel, in a fixed order.
  float* const exchange = reinterpret_cast<float*>(zeros);
  const int plane_threads = tiles.groups * tiles.strips, of_channel = tiles.images * plane_threads;
  // A split without images has not waited yet.
  __syncthreads();
#pragma unroll
  for (int tap = 0; tap <= kTaps; ++tap)
    store_shared(exchange + tap * blockDim.x + threadIdx.x, sums[tap]);
  __syncthreads();
#pragma unroll 1
  for (int base = 0; base < channels * (kTaps + 1); base += blockDim.x / kSummingThreads) {
    const int item = base + threadIdx.x / kSummingThreads;
    const int c = item / (kTaps + 1), tap = item - c * (kTaps + 1);
    const bool exists = c < channels && tap < kTaps + p.bias;
    float total = 0.f;
#pragma unroll 1
    for (int i = threadIdx.x % kSummingThreads; exists && i < of_channel; i += kSummingThreads) {
      const int of_image = tiles.by_plane_threads.quotient(i);
      const int thread =
          of_image * tiles.threads + c * plane_threads + i - of_image * plane_threads;
      total += load_shared(exchange + tap * blockDim.x + thread);
    }
#pragma unroll
    for (int lanes = kSummingThreads / 2; lanes > 0; lanes /= 2)
      total += __shfl_xor_sync(0xffffffffu, total, lanes);
    if (exists && threadIdx.x % kSummingThreads == 0) {
      store_scalar(p.partial_sums(split, first_channel + c, kTaps) + tap, total);
    }
  }
}

}  // namespace effkern
