// Partial sums of the weight and bias gradient over channels_last images of 16-bit types on tensor
// cores: k x k with k odd, stride 1, dilation 1, one output per input channel. Workspace and splits
// are those of depthwise_conv2d_wgrad_kernel.cuh.
//
// A cell is 4 channels of 2 neighbouring pixels: 16 bytes of shared memory, a row of ldmatrix. Of 8
// cells, ldmatrix gives each lane a channel and a pixel with two cells, which is what a product
// over cells wants of both operands: nothing else is transposed, and any padding is aligned.
// products[i][j] = sum of input[cell + s][i] grad_output[cell][j] belongs to a tap where i and j
// are of the same channel, a quarter of them: to kx = 2 s + i's pixel - j's pixel. Of 16 rows i,
// two neighbouring shifts s have 8 each.
//
// A warp walks down the image. It keeps k rows of grad_output in registers, loads a row of the
// input once and multiplies it with all of them: no row is read twice, and shared memory holds
// nothing but the rows that are under way.
#pragma once

#include <utility>

#include "common/ptx.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_kernel.cuh"

namespace effkern {

// Of a cell.
inline constexpr int kCellChannels = 4, kCellPixels = 2;
inline constexpr int kCellElements = kCellChannels * kCellPixels;
// Of a block: 16 channels, whole 32-byte sectors, times two products' cells side by side.
inline constexpr int kCellGroups = 4, kCellStrips = 2;
inline constexpr int kCellsOfStrip = 16, kMostCells = kCellStrips * kCellsOfStrip;
inline constexpr int kCellThreads = 32 * kCellGroups * kCellStrips;
// Pixels that a block copies at once.
inline constexpr int kCellCopies = kCellThreads / kCellGroups;
// Rows in shared memory, all but one of them under way.
inline constexpr int kCellStages = 5;
// Most images side by side, so that kCellCopies twice are all pixels of a row of the input.
inline constexpr int kMostCellImages = 8;

// Pairs of neighbouring shifts by a cell, with all columns of a kernel.
template <int kKernel>
inline constexpr int kCellShiftPairs = (kKernel + 4) / 4;
// Pixels that a row of the input has more than one of grad_output.
template <int kKernel>
inline constexpr int kCellReach = (2 * kCellShiftPairs<kKernel> - 1) * kCellPixels;

// A block takes 16 channels and a share of the units: each is `rows` rows of grad_output of one
// column tile, of `images` images side by side.
struct WeightGradCells {
  int images, cells;
  int row_tiles, rows;
  // Cells of shared memory from image to image of the input, and from one group of channels to the
  // next; elements of a stage, and where grad_output begins in it.
  int input_pitch, input_group, grad_group;
  int stage, grad_begin;
  // Of a split; one more for the first splits.
  int share, longer_splits;
  Divisor by_channel_blocks, by_column_tiles, by_row_tiles, by_input_columns, by_grad_columns;
};

// The rows of one unit.
struct WeightGradWalk {
  // The last row of the walk is before `end`; from `grad_end` on, grad_output has no rows here, but
  // the input still meets some before.
  int image, column, row, grad_end, end;

  template <int kKernel, typename T>
  static __device__ __forceinline__ WeightGradWalk of(const WeightGradCells& tiles,
                                                      const WeightGradImages<T>& p, int unit) {
    WeightGradWalk walk;
    walk.column = unit;
    walk.row = tiles.by_column_tiles.split(walk.column);
    walk.image = tiles.by_row_tiles.split(walk.row) * tiles.images;
    walk.column *= kCellPixels * tiles.cells;
    walk.row *= tiles.rows;
    walk.grad_end = min(walk.row + tiles.rows, p.out_height);
    walk.end = max(walk.grad_end, min(walk.grad_end + kKernel - 1, p.height + p.pad_top));
    return walk;
  }
};

// What a thread copies: 4 channels of a pixel of grad_output and of two of the input, row after
// row, unit after unit.
template <typename T, int kKernel>
struct WeightGradCopies {
  // Of the block's first pixel.
  const T *grad, *input;
  // Of the thread's pixels, and where they go in a stage; that is negative where it has none.
  int from_grad, from_input[2], to_grad, to_input[2];
  bool has_grad, has_input[2];
  int unit, last_unit, row, grad_end, end;

  __device__ __forceinline__ WeightGradCopies(const WeightGradCells& tiles,
                                              const WeightGradImages<T>& p, int first_channel,
                                              int begin, int last)
      : unit(begin), last_unit(last) {
    const int group = threadIdx.x % kCellGroups, channel = group * kCellChannels;
    const int images = first_channel + channel < p.channels ? tiles.images : 0;
    int column = threadIdx.x / kCellGroups;
    int image = tiles.by_grad_columns.split(column);
    from_grad = to_grad = -1;
    if (image < images) {
      from_grad =
          image * int(p.grad_output_strides.n) + column * int(p.grad_output_strides.w) + channel;
      to_grad = tiles.grad_begin +
                (group * tiles.grad_group + image * tiles.cells) * kCellElements +
                column * kCellChannels;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      column = threadIdx.x / kCellGroups + i * kCellCopies;
      image = tiles.by_input_columns.split(column);
      from_input[i] = to_input[i] = -1;
      if (image >= images) continue;
      from_input[i] = image * int(p.input_strides.n) + column * int(p.input_strides.w) + channel;
      to_input[i] = (group * tiles.input_group + image * tiles.input_pitch) * kCellElements +
                    column * kCellChannels;
    }
    start(tiles, p, first_channel);
  }

  // The first rows of a unit.
  __device__ __forceinline__ void start(const WeightGradCells& tiles, const WeightGradImages<T>& p,
                                        int first_channel) {
    if (unit >= last_unit) return;
    const auto walk = WeightGradWalk::of<kKernel>(tiles, p, unit);
    row = walk.row, grad_end = walk.grad_end, end = walk.end;
    grad = p.grad_output + (walk.image * p.grad_output_strides.n + row * p.grad_output_strides.h +
                            walk.column * p.grad_output_strides.w + first_channel);
    const int first_column = walk.column - p.pad_left;
    input = p.input + (walk.image * p.input_strides.n + (row - p.pad_top) * p.input_strides.h +
                       first_column * p.input_strides.w + first_channel);
    const int images = p.batch - walk.image;
    int column = threadIdx.x / kCellGroups;
    has_grad = tiles.by_grad_columns.split(column) < images && walk.column + column < p.out_width;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      column = threadIdx.x / kCellGroups + i * kCellCopies;
      has_input[i] = tiles.by_input_columns.split(column) < images &&
                     unsigned(first_column + column) < unsigned(p.width);
    }
  }

  // Starts to copy the next rows, if there are any, and makes a group of these copies.
  __device__ __forceinline__ void next(T* stage, const WeightGradCells& tiles,
                                       const WeightGradImages<T>& p, int first_channel) {
    if (unit < last_unit) {
      constexpr int kBytes = kCellChannels * sizeof(T);
      if (to_grad >= 0)
        ptx::cp_async<kBytes>(stage + to_grad, grad + from_grad, has_grad && row < grad_end);
      if (unsigned(row - p.pad_top) < unsigned(p.height)) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (to_input[i] < 0) continue;
          ptx::cp_async<kBytes>(stage + to_input[i], input + from_input[i], has_input[i]);
        }
      }
      grad += p.grad_output_strides.h;
      input += p.input_strides.h;
      if (++row == end) {
        ++unit;
        start(tiles, p, first_channel);
      }
    }
    ptx::cp_async_commit();
  }
};

namespace detail {

// sums[ky][s / 2] += the row y - ky of grad_output, window[kNewest - ky], times cells of the input,
// of which a lane has the address of one.
template <int kNewest, typename T, int kKernel, int kPairs>
__device__ __forceinline__ void multiply_cells(float (&sums)[kKernel][kPairs][4],
                                               const uint32_t (&window)[kKernel][2],
                                               const T* input) {
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    uint32_t shifted[4];
    ptx::ldmatrix<4, true>(shifted, input + 2 * pair * kCellElements);
#pragma unroll
    for (int ky = 0; ky < kKernel; ++ky)
      ptx::mma_m16n8k16<T>(sums[ky][pair], shifted, window[(kNewest + kKernel - ky) % kKernel]);
  }
}

// Calls function(0), function(1), ... with constants.
template <typename Function, int... kNumbers>
__device__ __forceinline__ void unrolled(const Function& function,
                                         std::integer_sequence<int, kNumbers...>) {
  (function(std::integral_constant<int, kNumbers>()), ...);
}

}  // namespace detail

template <typename T, int kKernel>
__global__ void __launch_bounds__(kCellThreads, 2)
    depthwise_conv2d_channels_last_wgrad_mma_kernel(WeightGradImages<T> p, WeightGradCells tiles) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  static_assert(kKernel % 2 == 1);
  // Of shifts by cells.
  constexpr int kPairs = kCellShiftPairs<kKernel>;
  // Stages; the sums at the end.
  EFFKERN_DYNAMIC_SHARED(T, stages);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int group = warp % kCellGroups, strip = warp / kCellGroups;
  int first_channel = blockIdx.x;
  const int split = tiles.by_channel_blocks.split(first_channel);
  first_channel *= kCellGroups * kCellChannels;
  const int begin = split * tiles.share + min(split, tiles.longer_splits);
  const int last = begin + tiles.share + (split < tiles.longer_splits ? 1 : 0);

  // Cells that are not there: of grad_output one of zeros, of the input another one.
  const int count = tiles.images * tiles.cells, stage_elements = tiles.stage;
  for (int i = threadIdx.x; i < kCellStages * kCellGroups; i += kCellThreads) {
    store_shared_packed<kCellElements>(
        stages + i / kCellGroups * stage_elements + tiles.grad_begin +
            (i % kCellGroups * tiles.grad_group + count) * kCellElements,
        Packed<T, kCellElements>::zero());
  }
  // A warp without cells or channels multiplies nothing.
  const bool works =
      strip * kCellsOfStrip < count && first_channel + group * kCellChannels < p.channels;
  const unsigned height = works ? p.height : 0;
  const int grad_cell = works ? strip * kCellsOfStrip + lane % 16 : count;
  const T* const grad = stages + tiles.grad_begin +
                        (group * tiles.grad_group + min(grad_cell, count)) * kCellElements;
  // Lane l gives the address of row l % 8 of matrix l / 8: a shift of the first 8 cells, the next
  // one, both of the other 8 cells.
  int cell = lane / 16 * 8 + lane % 8;
  cell = strip * kCellsOfStrip + cell < count ? strip * kCellsOfStrip + cell : min(cell, count - 1);
  const int image = tiles.by_grad_columns.quotient(kCellPixels * cell);
  const T* const input = stages + (group * tiles.input_group + image * tiles.input_pitch + cell -
                                   image * tiles.cells + lane / 8 % 2) *
                                      kCellElements;

  WeightGradCopies<T, kKernel> copies(tiles, p, first_channel, begin, last);
#pragma unroll 1
  for (int i = 0; i < kCellStages - 1; ++i)
    copies.next(stages + i * stage_elements, tiles, p, first_channel);

  float sums[kKernel][kPairs][4] = {}, bias = 0.f;
  // Elements before this row's stage and before that of the last one, which is free.
  int stage = 0, free = (kCellStages - 1) * stage_elements;
#pragma unroll 1
  for (int unit = begin; unit < last; ++unit) {
    const auto walk = WeightGradWalk::of<kKernel>(tiles, p, unit);
    uint32_t window[kKernel][2] = {};
#pragma unroll 1
    for (int y = walk.row; y < walk.end; y += kKernel) {
      const auto step = [&](auto newest) {
        constexpr int kNewest = decltype(newest)::value;
        if (y + kNewest >= walk.end) return;
        ptx::cp_async_wait<kCellStages - 2>();
        __syncthreads();
        copies.next(stages + free, tiles, p, first_channel);
        ptx::ldmatrix<2, true>(window[kNewest], grad + stage);
        if (p.bias) {
          float low[2], high[2];
          Packed<T, 2>{window[kNewest][0]}.widen_to(low);
          Packed<T, 2>{window[kNewest][1]}.widen_to(high);
          bias += (low[0] + low[1]) + (high[0] + high[1]);
        }
        if (unsigned(y + kNewest - p.pad_top) < height)
          detail::multiply_cells<kNewest>(sums, window, input + stage);
        free = stage;
        stage += stage_elements;
        if (stage == kCellStages * stage_elements) stage = 0;
      };
      detail::unrolled(step, std::make_integer_sequence<int, kKernel>());
    }
  }
  ptx::cp_async_wait_all();
  __syncthreads();

  // A tap has two sums for each strip: of even and of odd pixels of grad_output. The bias is the
  // last tap.
  constexpr int kTaps = kKernel * kKernel, kColumns = kTaps + 1;
  constexpr int kBlockChannels = kCellGroups * kCellChannels;
  float* const totals = reinterpret_cast<float*>(stages);
  // Lanes have columns 2 t and 2 t + 1 of rows g and g + 8, one of which is of the row's channel.
  const int column_pixel = t / 2, row_pixel = g / kCellChannels, own = g % kCellChannels;
  float* const own_totals =
      totals + (strip * kCellPixels * kBlockChannels + group * kCellChannels + own) * kColumns;
  float* const to = own_totals + column_pixel * kBlockChannels * kColumns;
  if (own / 2 == t % 2) {
#pragma unroll
    for (int ky = 0; ky < kKernel; ++ky) {
#pragma unroll
      for (int s = 0; s < 2 * kPairs; ++s) {
        const int kx = 2 * s + row_pixel - column_pixel;
        const float (&of)[4] = sums[ky][s / 2];
        if (unsigned(kx) < unsigned(kKernel))
          store_shared(to + ky * kKernel + kx, own % 2 ? of[s % 2 * 2 + 1] : of[s % 2 * 2]);
      }
    }
  }
  // Of grad_output, a lane has row_pixel.
  bias += __shfl_xor_sync(0xffffffffu, bias, 1);
  bias += __shfl_xor_sync(0xffffffffu, bias, 2);
  if (t == 0) store_shared(own_totals + row_pixel * kBlockChannels * kColumns + kTaps, bias);
  __syncthreads();

  const int channels = min(kBlockChannels, p.channels - first_channel);
  float* const partial = p.partial_sums(split, first_channel, kTaps);
#pragma unroll 1
  for (int i = threadIdx.x; i < channels * kColumns; i += kCellThreads) {
    const int channel = i / kColumns, tap = i - channel * kColumns;
    float total = 0.f;
#pragma unroll
    for (int slot = 0; slot < kCellStrips * kCellPixels; ++slot)
      total += load_shared(totals + slot * kBlockChannels * kColumns + i);
    if (tap < kTaps + p.bias) store_scalar(partial + channel * (kTaps + p.bias) + tap, total);
  }
#endif
}

}  // namespace effkern
