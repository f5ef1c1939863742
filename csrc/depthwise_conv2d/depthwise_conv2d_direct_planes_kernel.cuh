// Direct convolution on FMA units over NCHW planes: output = epilogue(sum over taps of input *
// weight), kernels k x k with stride 1 or 2 and dilation 1, one output per input channel.
//
// A block copies planes, or rows of a plane, to shared memory as they are. A thread computes a tile
// of one plane in registers and reads each input row of it once: rows outside the image from a row
// of zeros, columns outside, which are among its first and last k - 1, as zeros. Results leave
// through the same shared memory, so that every access to memory is 16 bytes wide.
//
// The input gradient of a stride-1 convolution is the same computation on grad_output, with the
// taps in reverse order and the padding (k - 1 - pad).
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"
#include "depthwise_conv2d/depthwise_conv2d_hooks.cuh"
#include "depthwise_conv2d/depthwise_conv2d_planes_tile.cuh"

namespace effkern {

inline constexpr int kPlaneThreads = 192;
// A row of zeros in front of what is staged; as long as a thread's input rows, at least.
inline constexpr int kZeroColumns = 32;

// What a thread's tiles can rely on. kSame: at most k / 2 columns of padding on each side, less
// than k otherwise. kWhole: also, tiles end where the output does. kVectors: also, rows of input
// and output are made of whole aligned vectors of a tile's columns, and are as long as each other.
enum class PlaneFit { kAny, kSame, kWhole, kVectors };

namespace detail {

// The kSpan input columns of a thread's outputs.
template <typename T, int kKernel, int kStride, int kColumns, PlaneFit kFit>
struct PlaneRow {
  static constexpr bool kVectors = kFit == PlaneFit::kVectors;
  static constexpr int kSpan = (kColumns - 1) * kStride + kKernel, kVector = kColumns * kStride;
  // The columns that may lie outside the image; with vectors, those before and after them.
  static constexpr int kBefore = kFit == PlaneFit::kAny ? kKernel - 1 : kKernel / 2;
  static constexpr int kAfter = kVectors ? kSpan - kBefore - kVector : kBefore;
  static constexpr int kEdges = kBefore + kAfter;
  // With vectors, a pair from each neighbour, of which one is needed.
  static_assert(!kVectors || (kBefore <= 1 && kAfter <= 1 && sizeof(T) == 2));
  using Bits = typename Packed<T, kVectors ? 2 : 1>::Bits;

  // All ones where they are inside. A register each: there are too few predicates.
  Bits inside[kEdges];

  __device__ __forceinline__ PlaneRow(int x, int width) {
#pragma unroll
    for (int i = 0; i < kEdges; ++i) {
      const int column = x + (i < kBefore ? i : kSpan - kEdges + i);
      inside[i] = unsigned(column) < unsigned(width) ? Bits(~Bits(0)) : Bits(0);
    }
  }

  __device__ __forceinline__ void load(const T* from, float (&values)[kSpan]) const {
    if constexpr (kVectors) {
      load_vector(from + kBefore, values);
    } else {
#pragma unroll
      for (int i = 0; i < kSpan; ++i) {
        const bool before = i < kBefore, after = i >= kSpan - kAfter;
        Packed<T, 1> packed = load_shared_packed<1>(from + i);
        if (before || after) packed.bits &= inside[before ? i : i - (kSpan - kEdges)];
        float value[1];
        packed.widen_to(value);
        values[i] = value[0];
      }
    }
  }

  // The lanes beside a thread have the columns beside its own, but for those of the first and the
  // last, if they are not those of another row: then there is nothing inside the image.
  __device__ __forceinline__ void load_vector(const T* middle, float (&values)[kSpan]) const {
    const auto packed = load_shared_packed<kVector>(middle);
    unsigned words[kVector / 2];
    memcpy(static_cast<void*>(words), &packed.bits, sizeof(words));
    const int lane = threadIdx.x % 32;
    Packed<T, 2> before{__shfl_up_sync(0xffffffffu, words[kVector / 2 - 1], 1)};
    if (lane == 0) before = load_shared_packed<2>(middle - 2);
    Packed<T, 2> after{__shfl_down_sync(0xffffffffu, words[0], 1)};
    if (lane == 31) after = load_shared_packed<2>(middle + kVector);

    float own[kVector], pair[2];
    packed.widen_to(own);
#pragma unroll
    for (int i = 0; i < kVector; ++i) values[kBefore + i] = own[i];
    before.bits &= inside[0];
    before.widen_to(pair);
    values[0] = pair[1];
    after.bits &= inside[kEdges - 1];
    after.widen_to(pair);
    values[kSpan - 1] = pair[0];
  }
};

// The first `rows` rows of a tile, without its first `skipped` columns.
template <int kRows, int kColumns, PlaneFit kFit, typename T>
__device__ __forceinline__ void store_tile(T* to, int pitch, int rows, int skipped,
                                           const float (&sums)[kRows * kColumns]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r, to += pitch) {
    if (kFit != PlaneFit::kWhole && r >= rows) break;
    if constexpr (kFit == PlaneFit::kVectors) {
      store_shared_packed(to, pack<kColumns, T>(sums + r * kColumns));
    } else {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (kFit == PlaneFit::kWhole || j >= skipped) {
          store_shared_packed(to + j, pack<1, T>(sums + r * kColumns + j));
        }
      }
    }
  }
}

// Sums of the values that store_tile has stored, read again: a loop over them in registers is long.
template <int kRows, int kColumns, PlaneFit kFit, typename T>
__device__ __forceinline__ void sum_tile(const T* from, int pitch, int rows, int skipped,
                                         float (&moments)[2]) {
  rows = min(rows, kRows);
#pragma unroll 1
  for (int r = 0; r < rows; ++r, from += pitch) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (kFit != PlaneFit::kWhole && kFit != PlaneFit::kVectors && j < skipped) continue;
      float stored[1];
      load_shared_packed<1>(from + j).widen_to(stored);
      moments[0] += stored[0];
      moments[1] = fmaf(stored[0], stored[0], moments[1]);
    }
  }
}

}  // namespace detail

template <typename T, int kKernel, int kStride, int kRows, int kColumns, PlaneFit kFit,
          typename Epilogue>
__global__ void __launch_bounds__(kPlaneThreads, 2)
    depthwise_conv2d_contiguous_kernel(DepthwiseImages<T> p, PlaneTiles tiles, Epilogue epilogue) {
  using Row = detail::PlaneRow<T, kKernel, kStride, kColumns, kFit>;
  constexpr int kTaps = kKernel * kKernel;
  constexpr int kRowSpan = (kRows - 1) * kStride + kKernel;
  // Where the row of zeros starts, as seen from a thread's first column.
  constexpr int kZeroRow = Row::kVectors ? 8 - Row::kBefore : 0;
  static_assert(kZeroRow + Row::kSpan <= kZeroColumns);

  // kZeroColumns zeros, then the input, and later the output.
  EFFKERN_DYNAMIC_SHARED(T, zeros);
  T* const staged = zeros + kZeroColumns;
  [[maybe_unused]] float* exchange = nullptr;
  if constexpr (is_hooked<Epilogue>) {
    EFFKERN_SHARED(float, thread_sums, [2 * kPlaneThreads]);
    exchange = thread_sums;
  }

  const PlaneItem item(tiles);
  const int tile_row = item.row_tile * tiles.groups * kRows;
  const int tile_column = item.column_tile * tiles.strips * kColumns;
  const int tile_rows = min(tiles.groups * kRows, p.out_height - tile_row);
  const bool whole_planes = tiles.planes > 1, whole_rows = tiles.column_tiles == 1;
  // Of the last strip, only columns that the strip before it has not; it ends with the image.
  const int wanted_column = tile_column + item.strip * kColumns;
  const int column = kFit == PlaneFit::kWhole || Row::kVectors
                         ? wanted_column
                         : min(wanted_column, p.out_width - kColumns);
  const int row = tile_row + item.group * kRows;

  const int x = column * kStride - p.pad_left, y = row * kStride - p.pad_top;
  const int y0 = tile_row * kStride - p.pad_top;
  const int left = (tile_column - kColumns) * kStride - p.pad_left;
  const int right = (tile_column + tiles.strips * kColumns) * kStride + kKernel - p.pad_left;
  const PlaneWindow<const T> input(
      p.input, p.input_strides, tiles.input_is_run, whole_planes ? 0 : max(0, y0),
      whole_planes ? p.height : min(p.height, y0 + (tile_rows - 1) * kStride + kKernel),
      whole_rows ? 0 : max(0, left) & -8, whole_rows ? p.width : min(p.width, right));
  const PlaneWindow<T> output(p.output, p.output_strides, tiles.output_is_run, tile_row,
                              tile_row + tile_rows, whole_rows ? 0 : tile_column,
                              min(p.out_width, tile_column + tiles.strips * kColumns));
  const Row columns(x, p.width);
  if (threadIdx.x < kZeroColumns) store_shared_packed(zeros + threadIdx.x, Packed<T, 1>::zero());

  const int end = min(p.batch * p.channels, item.first_plane + tiles.planes * tiles.rounds);
  PlaneCursor<const T> source(input, item.first_plane, tiles.planes);
  PlaneCursor<T> target(output, item.first_plane, tiles.planes);
#pragma unroll 1
  for (int first_plane = item.first_plane; first_plane < end; first_plane += tiles.planes) {
    const int planes = min(tiles.planes, end - first_plane), plane = min(item.plane, planes - 1);
    move_planes<true>(staged, input, source, tiles.by_channels, first_plane, planes);
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.has_prologue) {
        __syncthreads();
        transform_planes(staged + source.phase, input, epilogue, tiles.by_channels, first_plane,
                         planes);
      }
    }

    int c = first_plane + plane;
    const int n = tiles.by_channels.split(c);
    const T* weight = p.weight + int64_t(c) * kTaps + (p.flip_taps ? kTaps - 1 : 0);
    const int step = p.flip_taps ? -1 : 1;
    float taps[kTaps];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) taps[tap] = load_scalar(weight + tap * step);
    const float initial = epilogue.initial(c);
    float sums[kRows * kColumns];
#pragma unroll
    for (float& sum : sums) sum = initial;
    __syncthreads();

    // A thread without outputs computes some that exist, or from zeros.
    const T* from = staged + source.phase + input.position(plane, y, x);
#pragma unroll
    for (int i = 0; i < kRowSpan; ++i, from += input.pitch) {
      float values[Row::kSpan];
      // Rows of whole tiles are inside the image, but for the first and the last.
      const bool inside =
          (kFit == PlaneFit::kWhole && i >= kKernel - 1 && i <= kRowSpan - kKernel) ||
          unsigned(y + i) < unsigned(p.height);
      columns.load(inside ? from : zeros + kZeroRow, values);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int ky = i - r * kStride;
        if (ky < 0 || ky >= kKernel) continue;
#pragma unroll
        for (int kx = 0; kx < kKernel; ++kx) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            float& sum = sums[r * kColumns + j];
            sum = fmaf(values[j * kStride + kx], taps[ky * kKernel + kx], sum);
          }
        }
      }
    }
    __syncthreads();

    [[maybe_unused]] float moments[2] = {};
    if (item.plane < planes && wanted_column < p.out_width) {
      T* to = staged + target.phase + output.position(plane, row, column);
      const int rows = p.out_height - row, skipped = wanted_column - column;
      // Two copies of the stores: one would move all sums to other registers first.
      if (epilogue.changes_values()) {
        epilogue.template finish<TileOrder::kRowsColumns, kRows, kColumns>(
            sums, {n, c, row, column, rows, p.out_width - column});
        detail::store_tile<kRows, kColumns, kFit>(to, output.pitch, rows, skipped, sums);
      } else {
        detail::store_tile<kRows, kColumns, kFit>(to, output.pitch, rows, skipped, sums);
      }
      if constexpr (is_hooked<Epilogue>) {
        detail::sum_tile<kRows, kColumns, kFit>(to, output.pitch, rows, skipped, moments);
      }
    }
    if constexpr (is_hooked<Epilogue>) {
      store_shared(exchange + threadIdx.x, moments[0]);
      store_shared(exchange + kPlaneThreads + threadIdx.x, moments[1]);
    }
    __syncthreads();
    if constexpr (is_hooked<Epilogue>) {
      reduce_planes(exchange, kPlaneThreads, epilogue, tiles, item, p.channels, first_plane,
                    planes);
    }
    move_planes<false>(staged, output, target, tiles.by_channels, first_plane, planes);
    source.advance(input), target.advance(output);
    __syncthreads();
  }
}

}  // namespace effkern
