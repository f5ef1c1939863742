// Partial sums of the weight and bias gradient over NCHW planes of 16-bit types on tensor cores:
// stride 1, dilation 1, one output per input channel, kernels of any shape up to 57 x 57. Workspace
// and splits are those of depthwise_conv2d_wgrad_kernel.cuh.
//
// A product is one shift kx of 16 rows y of grad_output against 8 rows r of the input, over their
// columns: products[y][r] belongs to the tap (r - y + pad, kx). Its diagonals are added up once, at
// the end. Columns may go to the product's k index in any order: lane t of four takes neighbouring
// columns of a segment of its own, so that another shift is another register, or two halves of
// neighbouring ones, and what is loaded once serves all shifts of a warp. Segments are parts of a
// row, or rows of several images.
#pragma once

#include "common/ptx.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_kernel.cuh"

namespace effkern {

inline constexpr int kWeightGradMmaWarps = 4;
// Rows of grad_output in a product.
inline constexpr int kWeightGradMmaRows = 16;
// Columns of a segment that are multiplied at a time.
inline constexpr int kWeightGradMmaColumns = 8;
// Most rows of a kernel.
inline constexpr int kWeightGradMmaTaps = 64;

// Rows [first_row, first_row + rows) of a staged box of a tensor, which are copied; all others
// are zeros.
struct WeightGradMmaBox {
  int first_row, rows;
  // Elements of shared memory from row to row and from image to image, and before column 0.
  int pitch, image_pitch, lead;
  // Elements per copy; rows and images that the block copies at once.
  int width, rows_at_once, images_at_once;
  Divisor by_chunks, by_rows_at_once;
};

// A block takes a share of the units of one channel: `images` images at a time, of which `stages`
// stages have `row_tiles` tiles of 16 rows of grad_output. A job is such a tile of 4 / segments
// images, for one of `groups` groups of shifts.
struct WeightGradMmaTiles {
  WeightGradMmaBox grad, input;
  int images, stages, row_tiles, jobs;
  // In a row, and columns of each.
  int segments, segment;
  // Of the first row of input that a tile meets, from its first row of grad_output; tiles of 8 such
  // rows; even column of a row's box that the first shift meets.
  int row_offset, input_tiles, first_column;
  // Shift 0 is column -phase of the kernel; a warp has `shifts` of them, an even number.
  int phase, shifts;
  // Groups of a block: 1 << group_bits.
  int group_bits, groups, group_blocks;
  // Of a split; one more for the first splits.
  int share, longer_splits;
  Divisor by_group_blocks, by_channels, by_stages, by_row_tiles;
};

namespace detail {

// What a thread copies first, of the first image and row: offsets of memory and of shared memory.
struct MmaCopies {
  int64_t from;
  int to, row, image;

  __device__ __forceinline__ MmaCopies(const WeightGradMmaBox& box, const Strides4& strides) {
    int chunk = threadIdx.x;
    row = box.by_chunks.split(chunk);
    image = box.by_rows_at_once.split(row);
    from = image * strides.n + row * int(strides.h) + chunk * box.width;
    to = image * box.image_pitch + (box.first_row + row) * box.pitch + box.lead + chunk * box.width;
  }
};

// Starts to copy the rows of a box, from row `y` of the image on, to `staged`.
template <int kWidth, typename T>
__device__ __forceinline__ void stage_mma_box(T* staged, const WeightGradMmaBox& box,
                                              const MmaCopies& copies, const T* from,
                                              const Strides4& strides, int images, int valid_images,
                                              int y, int height) {
  from += copies.from;
  staged += copies.to;
  if (copies.image >= box.images_at_once) return;
  const int64_t step = box.images_at_once * strides.n;
  const int pitch = box.images_at_once * box.image_pitch;
#pragma unroll 1
  for (int row = copies.row; row < box.rows; row += box.rows_at_once) {
    const int valid = unsigned(y + row) < unsigned(height) ? valid_images : 0;
    const T* source = from;
    T* to = staged;
#pragma unroll(kWidth == 1 ? 4 : 1)
    for (int image = copies.image; image < images; image += box.images_at_once) {
      if constexpr (kWidth == 1) {
        store_shared_packed<1>(to, load_or_zero<1>(image < valid, source));
      } else {
        ptx::cp_async<kWidth * sizeof(T)>(to, source, image < valid);
      }
      source += step;
      to += pitch;
    }
    from += box.rows_at_once * int(strides.h);
    staged += box.rows_at_once * box.pitch;
  }
}

template <typename T>
__device__ __forceinline__ void stage_mma_box(T* staged, const WeightGradMmaBox& box,
                                              const MmaCopies& copies, const T* from,
                                              const Strides4& strides, int images, int valid_images,
                                              int y, int height) {
  y += box.first_row;
  from += y * strides.h;
  switch (box.width) {
    case 8:
      return stage_mma_box<8>(staged, box, copies, from, strides, images, valid_images, y, height);
    case 4:
      return stage_mma_box<4>(staged, box, copies, from, strides, images, valid_images, y, height);
    case 2:
      return stage_mma_box<2>(staged, box, copies, from, strides, images, valid_images, y, height);
    default:
      return stage_mma_box<1>(staged, box, copies, from, strides, images, valid_images, y, height);
  }
}

// The upper half of `low` and the lower one of `high`.
__device__ __forceinline__ uint32_t between(uint32_t low, uint32_t high) {
  return low >> 16 | high << 16;
}

// sums += grad_output times input, whose first columns lanes have the addresses of, over `columns`
// columns of each segment, for the first 2 kPairs shifts. Of many pairs, the first and the last
// shift only where they are asked for.
template <typename T, int kPairs, int kTiles, int kShifts>
__device__ __forceinline__ void multiply_rows(float (&sums)[kTiles][kShifts][4], float (&bias)[4],
                                              const T* grad, int grad_pitch, const T* input,
                                              int input_pitch, int columns, int begin_tile,
                                              int end_tile, bool first, bool last, bool sums_bias) {
  const T one[2] = {T(1.f), T(1.f)};
  uint32_t ones;
  memcpy(&ones, static_cast<const void*>(one), sizeof(ones));
  // Four columns of each segment to a product.
  constexpr int kSteps = kWeightGradMmaColumns / 4, kWords = kPairs + 2 * kSteps;
#pragma unroll 1
  for (int left = columns; left > 0; left -= kWeightGradMmaColumns) {
    uint32_t a[kSteps][4] = {};
#pragma unroll
    for (int i = 0; i < 2 * kSteps; ++i) {
      if (i > 0 && left <= 2 * i) continue;
      a[i / 2][i % 2 * 2] = load_shared_packed<2>(grad + 2 * i).bits;
      a[i / 2][i % 2 * 2 + 1] = load_shared_packed<2>(grad + 8 * grad_pitch + 2 * i).bits;
    }
    if (sums_bias) {
      const uint32_t b[2] = {ones, ones};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) ptx::mma_m16n8k16<T>(bias, a[step], b);
    }
    const T* rows = input;
#pragma unroll
    for (int i = 0; i < kTiles; ++i, rows += 8 * input_pitch) {
      if (i < begin_tile || i >= end_tile) continue;
      uint32_t words[kWords];
#pragma unroll
      for (int j = 0; j < kWords; ++j) words[j] = load_shared_packed<2>(rows + 2 * j).bits;
#pragma unroll
      for (int s = 0; s < 2 * kPairs; ++s) {
        if (kPairs > 2 && ((s == 0 && !first) || (s == 2 * kPairs - 1 && !last))) continue;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const uint32_t* from = words + 2 * step + s / 2;
          const uint32_t even[2] = {from[0], from[1]};
          const uint32_t odd[2] = {between(from[0], from[1]), between(from[1], from[2])};
          ptx::mma_m16n8k16<T>(sums[i][s], a[step], s % 2 ? odd : even);
        }
      }
    }
    grad += kWeightGradMmaColumns;
    input += kWeightGradMmaColumns;
  }
}

}  // namespace detail

// kTiles tiles of 8 input rows and kShifts shifts of a warp.
template <typename T, int kTiles, int kShifts>
__global__ void __launch_bounds__(32 * kWeightGradMmaWarps, kTiles <= 3 ? 3 : 2)
    depthwise_conv2d_contiguous_wgrad_mma_kernel(WeightGradImages<T> p, WeightGradMmaTiles tiles,
                                                 int kernel_h, int kernel_w) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  static_assert(kShifts % 2 == 0);
  constexpr int kThreads = 32 * kWeightGradMmaWarps, kRows = kWeightGradMmaRows;
  // Boxes of grad_output, then of the input; the sums at the end.
  EFFKERN_DYNAMIC_SHARED(T, staged_grad);
  T* const staged_input = staged_grad + tiles.images * tiles.grad.image_pitch;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;

  int group_block = blockIdx.x;
  int channel = tiles.by_group_blocks.split(group_block);
  const int split = tiles.by_channels.split(channel);
  // Other warps, which run elsewhere on the SM, have the last group, which may be smaller.
  const int of_block = (warp + blockIdx.x) & (tiles.groups - 1), slot = warp >> tiles.group_bits;
  const int slots = kWeightGradMmaWarps >> tiles.group_bits;
  const int first_shift = (group_block * tiles.groups + of_block) * tiles.shifts;
  // Shifts of the warp that are columns of the kernel.
  const int begin_shift = max(0, tiles.phase - first_shift);
  const int end_shift = min(tiles.shifts, tiles.phase + kernel_w - first_shift);
  const bool sums_bias = p.bias != 0 && first_shift == 0;

  const int staged = tiles.images * (tiles.grad.image_pitch + tiles.input.image_pitch);
  for (int i = 8 * threadIdx.x; i < staged; i += 8 * kThreads)
    store_shared_packed<8>(staged_grad + i, Packed<T, 8>::zero());

  const int at_once = 4 / tiles.segments, image_of_lane = t / tiles.segments;
  const int column = (t - image_of_lane * tiles.segments) * tiles.segment;
  const T* const lane_grad =
      staged_grad + image_of_lane * tiles.grad.image_pitch + g * tiles.grad.pitch + column;
  const T* const lane_input = staged_input + image_of_lane * tiles.input.image_pitch +
                              g * tiles.input.pitch + column + tiles.first_column + first_shift;
  const detail::MmaCopies grad_copies(tiles.grad, p.grad_output_strides);
  const detail::MmaCopies input_copies(tiles.input, p.input_strides);
  float sums[kTiles][kShifts][4] = {}, bias[4] = {};
  const int begin = split * tiles.share + min(split, tiles.longer_splits);
  const int end = begin + tiles.share + (split < tiles.longer_splits ? 1 : 0);
#pragma unroll 1
  for (int unit = begin; unit < end; ++unit) {
    const int round = tiles.by_stages.quotient(unit);
    const int row = (unit - round * tiles.stages) * tiles.row_tiles * kRows;
    const int first_image = round * tiles.images;
    const int valid_images = min(tiles.images, p.batch - first_image);
    // Zeros are written, or the images before are read.
    __syncthreads();
    detail::stage_mma_box(
        staged_grad, tiles.grad, grad_copies,
        p.grad_output + first_image * p.grad_output_strides.n + channel * p.grad_output_strides.c,
        p.grad_output_strides, tiles.images, valid_images, row, p.out_height);
    detail::stage_mma_box(staged_input, tiles.input, input_copies,
                          p.input + first_image * p.input_strides.n + channel * p.input_strides.c,
                          p.input_strides, tiles.images, valid_images, row + tiles.row_offset,
                          p.height);
    ptx::cp_async_wait_all();
    __syncthreads();
#pragma unroll 1
    for (int job = slot; job < tiles.jobs && begin_shift < end_shift; job += slots) {
      const int images = tiles.by_row_tiles.quotient(job);
      const int tile = job - images * tiles.row_tiles, y = row + tile * kRows;
      if (images * at_once >= valid_images || y >= p.out_height) continue;
      // Tiles of input rows that are in the image.
      const int r = y + tiles.row_offset, begin_tile = max(0, -r) / 8;
      const int end_tile = min(tiles.input_tiles, (p.height - r + 7) / 8);
      const T* from_grad =
          lane_grad + images * at_once * tiles.grad.image_pitch + tile * kRows * tiles.grad.pitch;
      const T* from_input = lane_input + images * at_once * tiles.input.image_pitch +
                            tile * kRows * tiles.input.pitch;
      const auto multiply = [&](auto pairs) {
        detail::multiply_rows<T, decltype(pairs)::value>(
            sums, bias, from_grad, tiles.grad.pitch, from_input, tiles.input.pitch, tiles.segment,
            begin_tile, end_tile, begin_shift == 0, end_shift == tiles.shifts, sums_bias);
      };
      // All warps the same, whatever they need of it.
      if (tiles.shifts <= 4) {
        multiply(std::integral_constant<int, 2>());
      } else if (tiles.shifts <= 6) {
        multiply(std::integral_constant<int, kShifts <= 4 ? 2 : 3>());
      } else {
        multiply(std::integral_constant<int, kShifts / 2>());
      }
    }
  }

  // Diagonals, one shift at a time: products[r][y] of each warp, then the taps of each.
  constexpr int kPitch = kRows + 1, kProducts = 8 * kTiles * kPitch;
  float* const products = reinterpret_cast<float*>(staged_grad) + warp * kProducts;
  float* const totals = reinterpret_cast<float*>(staged_grad) + kWeightGradMmaWarps * kProducts;
  float* const biases = totals + kWeightGradMmaWarps * kShifts * kWeightGradMmaTaps;
  const int first_diagonal = -(tiles.row_offset + p.pad_top);
  __syncthreads();
  const int rows = min(kRows, p.out_height);
#pragma unroll
  for (int s = 0; s < kShifts; ++s) {
    if (s >= tiles.shifts) continue;
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) {
      store_shared(products + (i / 4 * 8 + 2 * t + i % 2) * kPitch + g + i % 4 / 2 * 8,
                   sums[i / 4][s][i % 4]);
    }
    __syncwarp();
#pragma unroll 1
    for (int ky = lane; ky < kernel_h; ky += 32) {
      float total = 0.f;
#pragma unroll 4
      for (int m = 0; m < rows; ++m) {
        const int r = ky + m + first_diagonal;
        if (unsigned(r) < unsigned(8 * kTiles)) total += load_shared(products + r * kPitch + m);
      }
      store_shared(totals + (warp * kShifts + s) * kWeightGradMmaTaps + ky, total);
    }
    __syncwarp();
  }
  float rows_bias = bias[0] + bias[2];
#pragma unroll
  for (int lanes = 4; lanes < 32; lanes *= 2)
    rows_bias += __shfl_xor_sync(0xffffffffu, rows_bias, lanes);
  if (lane == 0) store_shared(biases + warp, rows_bias);
  __syncthreads();

  // Warps with the same shifts, in a fixed order.
  const int taps = kernel_h * kernel_w;
  float* const partial = p.partial_sums(split, channel, taps);
  const int rotation = tiles.groups - (blockIdx.x & (tiles.groups - 1));
#pragma unroll 1
  for (int i = threadIdx.x; i < tiles.groups * kShifts * kWeightGradMmaTaps; i += kThreads) {
    const int ky = i % kWeightGradMmaTaps, group = i / kWeightGradMmaTaps / kShifts;
    const int shift = i / kWeightGradMmaTaps % kShifts;
    const int kx = (group_block * tiles.groups + group) * tiles.shifts + shift - tiles.phase;
    const bool exists = ky < kernel_h && shift < tiles.shifts && kx >= 0 && kx < kernel_w;
    float total = 0.f;
    for (int w = (group + rotation) & (tiles.groups - 1); exists && w < kWeightGradMmaWarps;
         w += tiles.groups)
      total += load_shared(totals + (w * kShifts + shift) * kWeightGradMmaTaps + ky);
    if (exists) store_scalar(partial + ky * kernel_w + kx, total);
  }
  if (p.bias != 0 && group_block == 0 && threadIdx.x == 0) {
    float total = 0.f;
    for (int w = rotation & (tiles.groups - 1); w < kWeightGradMmaWarps; w += tiles.groups)
      total += load_shared(biases + w);
    store_scalar(partial + taps, total);
  }
#endif
}

}  // namespace effkern
