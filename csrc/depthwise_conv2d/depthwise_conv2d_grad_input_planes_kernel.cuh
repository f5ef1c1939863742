// Input gradient of stride-2 convolutions over NCHW planes, k x k, dilation 1.
//
// In quads, as depthwise_conv2d_grad_input_kernel.cuh has them; copies are those of
// depthwise_conv2d_direct_planes_kernel.cuh, but grad_input has shared memory of its own. In
// DepthwiseImages, `input` is grad_output (height, width) and `output` is grad_input (out_height,
// out_width).
//
// A thread owns a strip of four columns of grad_input, the first of them even, and walks down: rows
// of grad_output stay in registers for as many quads as they meet. Lanes beside each other store
// strips beside each other, in as few and as wide words as rows are aligned to. Groups and strips
// of PlaneTiles are such walks and columns.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_planes_tile.cuh"

namespace effkern {

// Lanes of 7, 14 and 28 strips fill seven warps.
inline constexpr int kGradPlaneThreads = 256;
inline constexpr int kGradColumns = 4;
// Zeros in front of grad_output; in its place where a row is outside.
inline constexpr int kGradZeroColumns = 32;
// Elements of grad_output's last row that are read, and then masked, beyond its end.
inline constexpr int kGradColumnsBeyond = 8;

namespace detail {

// How a strip is stored: as one word, as words of two columns, or one column at a time.
enum class StripStore { kWhole, kPairs, kColumns };

// The strip of one thread.
template <typename T, int kKernel, bool kOddPadding>
struct GradInputStrip {
  // Rows and columns of grad_output that meet a quad, and columns that meet the strip.
  static constexpr int kReach = (kKernel + 1) / 2, kSpan = kReach + kGradColumns / 2 - 1;
  using Bits = typename Packed<T, 1>::Bits;

  float taps[kKernel * kKernel];
  // All ones where the columns of grad_output are inside.
  Bits inside[kSpan];

  // `x` is the first column of grad_output.
  __device__ __forceinline__ GradInputStrip(int x, int width) {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      inside[i] = unsigned(x + i) < unsigned(width) ? Bits(~Bits(0)) : Bits(0);
    }
  }

  __device__ __forceinline__ void load_taps(const T* weight) {
#pragma unroll
    for (int tap = 0; tap < kKernel * kKernel; ++tap) taps[tap] = load_scalar(weight + tap);
  }

  __device__ __forceinline__ void load(const T* from, float (&values)[kSpan]) const {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      Packed<T, 1> packed = load_shared_packed<1>(from + i);
      packed.bits &= inside[i];
      float value[1];
      packed.widen_to(value);
      values[i] = value[0];
    }
  }

  // Row `parity` of the quad whose last row of grad_output is rows[last].
  template <int kRows>
  __device__ __forceinline__ void sum(const float (&rows)[kRows][kSpan], int last, int parity,
                                      float (&sums)[kGradColumns]) const {
#pragma unroll
    for (float& sum : sums) sum = 0;
#pragma unroll
    for (int ky = parity; ky < kKernel; ky += 2) {
#pragma unroll
      for (int kx = 0; kx < kKernel; ++kx) {
#pragma unroll
        for (int q = 0; q < kGradColumns / 2; ++q) {
          // With an odd padding, the odd column of a quad is the first of a pair.
          const int column = q + kReach - 1 - (kx % 2 && kOddPadding) - kx / 2;
          float& sum = sums[2 * q + (kx % 2 ^ int(kOddPadding))];
          sum = fmaf(rows[last - ky / 2][column], taps[ky * kKernel + kx], sum);
        }
      }
    }
  }
};

// What a thread walks through: rows of grad_input from y to y_end, and of grad_output, staged rows
// from `row` on, of which there are `rows`. The first is that of the first even row's last tap.
template <typename T>
struct GradInputWalk {
  const T* from;
  T* to;
  int row, rows, pitch;
  int y, y_end, out_pitch;
  // Of the strip.
  int columns;
};

template <StripStore kStore, typename T>
__device__ __forceinline__ void store_strip(T* to, int columns, const float (&sums)[kGradColumns]) {
  constexpr int kWidth = kStore == StripStore::kWhole   ? kGradColumns
                         : kStore == StripStore::kPairs ? 2
                                                        : 1;
#pragma unroll
  for (int j = 0; j < kGradColumns; j += kWidth) {
    if (j == 0 || j < columns) store_shared_packed(to + j, pack<kWidth, T>(sums + j));
  }
}

template <StripStore kStore, typename T, int kKernel, bool kOddPadding>
__device__ __forceinline__ void walk_strip(const GradInputStrip<T, kKernel, kOddPadding>& strip,
                                           GradInputWalk<T> walk, bool starts_odd, const T* zeros) {
  using Strip = GradInputStrip<T, kKernel, kOddPadding>;
  // Quads at a time: their rows of grad_output are loaded together, before any store.
  constexpr int kReach = Strip::kReach, kSteps = kReach;
  float rows[kReach - 1 + kSteps][Strip::kSpan];
  const auto load_row = [&](float (&values)[Strip::kSpan]) {
    strip.load(unsigned(walk.row) < unsigned(walk.rows) ? walk.from : zeros, values);
    ++walk.row, walk.from += walk.pitch;
  };
  const auto finish_row = [&](int last, int parity) {
    float sums[kGradColumns];
    strip.sum(rows, last, parity, sums);
    store_strip<kStore>(walk.to, kStore == StripStore::kWhole ? kGradColumns : walk.columns, sums);
    walk.to += walk.out_pitch, ++walk.y;
  };
  const auto forget_rows = [&](int count) {
#pragma unroll
    for (int i = 0; i < kReach - 1; ++i) {
#pragma unroll
      for (int j = 0; j < Strip::kSpan; ++j) rows[i][j] = rows[i + count][j];
    }
  };

#pragma unroll
  for (int i = 0; i < kReach - 1; ++i) load_row(rows[i]);
  if (starts_odd) finish_row(kReach - 2, 1);
#pragma unroll 1
  while (walk.y_end - walk.y >= 2 * kSteps) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) load_row(rows[kReach - 1 + step]);
#pragma unroll
    for (int r = 0; r < 2 * kSteps; ++r) finish_row(kReach - 1 + r / 2, r % 2);
    forget_rows(kSteps);
  }
#pragma unroll 1
  while (walk.y < walk.y_end) {
    load_row(rows[kReach - 1]);
    finish_row(kReach - 1, 0);
    if (walk.y < walk.y_end) finish_row(kReach - 1, 1);
    forget_rows(1);
  }
}

}  // namespace detail

// `walk` is an even number of rows of grad_input, and kOddPadding that of pad_left.
template <typename T, int kKernel, bool kOddPadding>
__global__ void __launch_bounds__(kGradPlaneThreads, 2)
    depthwise_conv2d_contiguous_grad_input_kernel(DepthwiseImages<T> p, PlaneTiles tiles,
                                                  int walk) {
  using Strip = detail::GradInputStrip<T, kKernel, kOddPadding>;
  using Store = detail::StripStore;
  constexpr int kReach = Strip::kReach;

  // Zeros, grad_output and grad_input.
  EFFKERN_DYNAMIC_SHARED(T, zeros);
  T* const staged = zeros + kGradZeroColumns;

  const PlaneItem item(tiles);
  const bool whole_planes = tiles.planes > 1, whole_rows = tiles.column_tiles == 1;
  const int tile_row = item.row_tile * tiles.groups * walk;
  const int row = tile_row + item.group * walk;
  const int tile_column = item.column_tile * tiles.strips * kGradColumns;
  const int column = tile_column + item.strip * kGradColumns;

  // In grad_output, of the first that is read.
  const int y0 = (tile_row + p.pad_top + 1) / 2 - (kReach - 1);
  const int y = (row + p.pad_top + 1) / 2 - (kReach - 1);
  const int x0 = (tile_column + p.pad_left + 1) / 2 - (kReach - 1);
  const int x = (column + p.pad_left + 1) / 2 - (kReach - 1);
  const PlaneWindow<const T> input(
      p.input, p.input_strides, tiles.input_is_run, whole_planes ? 0 : max(0, y0),
      whole_planes ? p.height : min(p.height, y0 + tiles.groups * (walk / 2) + kReach - 1),
      whole_rows ? 0 : max(0, x0) & -8,
      whole_rows ? p.width : min(p.width, x0 + tiles.strips * (kGradColumns / 2) + kReach - 1));
  const PlaneWindow<T> output(p.output, p.output_strides, tiles.output_is_run, tile_row,
                              min(p.out_height, tile_row + tiles.groups * walk), tile_column,
                              min(p.out_width, tile_column + tiles.strips * kGradColumns));
  // Behind grad_output and what it may be shifted by; aligned.
  T* const results =
      staged + ((tiles.planes * input.plane_pitch + kGradColumnsBeyond + 2 * 7) & -8);
  Strip strip(x, p.width);
  if (threadIdx.x < kGradZeroColumns) {
    store_shared_packed(zeros + threadIdx.x, Packed<T, 1>::zero());
  }

  const int end = min(p.batch * p.channels, item.first_plane + tiles.planes * tiles.rounds);
  PlaneCursor<const T> source(input, item.first_plane, tiles.planes);
  PlaneCursor<T> target(output, item.first_plane, tiles.planes);
#pragma unroll 1
  for (int first_plane = item.first_plane; first_plane < end; first_plane += tiles.planes) {
    const int planes = min(tiles.planes, end - first_plane);
    move_planes<true>(staged, input, source, tiles.by_channels, first_plane, planes);
    const bool active = item.plane < planes && column < p.out_width && row < p.out_height;
    if (active) {
      int c = first_plane + item.plane;
      tiles.by_channels.split(c);
      strip.load_taps(p.weight + int64_t(c) * (kKernel * kKernel));
    }
    // Also: the last results have been copied.
    __syncthreads();
    if (active) {
      const detail::GradInputWalk<T> walked{
          staged + source.phase + input.position(item.plane, y, x),
          results + target.phase + output.position(item.plane, row, column),
          y - input.first_row,
          input.rows,
          input.pitch,
          row,
          min(p.out_height, row + walk),
          output.pitch,
          p.out_width - column};
      const bool starts_odd = p.pad_top % 2;
      // What every strip of the round is aligned to.
      const int odds = output.pitch | output.plane_pitch | target.phase | p.out_width;
      if (odds % kGradColumns == 0) {
        detail::walk_strip<Store::kWhole>(strip, walked, starts_odd, zeros);
      } else if (odds % 2 == 0) {
        detail::walk_strip<Store::kPairs>(strip, walked, starts_odd, zeros);
      } else {
        detail::walk_strip<Store::kColumns>(strip, walked, starts_odd, zeros);
      }
    }
    __syncthreads();
    move_planes<false>(results, output, target, tiles.by_channels, first_plane, planes);
    source.advance(input), target.advance(output);
  }
}

}  // namespace effkern
