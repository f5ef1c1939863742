// Copies of 16-bit images from channels_last to planes and back, by 16-byte accesses on both sides.
//
// A block copies 64 channels of 64 columns. In shared memory a line is what is neighbouring where
// it comes from: the channels of a column, or the columns of a channel. ldmatrix transposes 8 lines
// of 8 elements for two registers of neighbouring lines; its rows are chosen so that the four
// registers of a lane are 8 neighbouring lines, which leave as 16 bytes.
#pragma once

#include "common/ptx.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

inline constexpr int kTransposeThreads = 128;
// Lines, and elements of a line, of a block.
inline constexpr int kTransposeTile = 64;

// A unit is 8 neighbouring columns. Planes are [image][channel][row][8 row_units], whose columns
// past `width` are zeros; channels are a multiple of 8.
struct PlaneCopy {
  const uint16_t* from;
  uint16_t* to;
  // Of the channels_last image.
  Strides4 strides;
  int channels, width, row_units;
  // Of a plane.
  int units;
  int channel_blocks, unit_blocks;
  Divisor by_row_units, by_channel_blocks, by_unit_blocks;
};

namespace detail {

// A pixel of a channels_last image: one of 8 columns of a unit.
struct UnitColumn {
  bool inside;
  int64_t offset;

  __device__ __forceinline__ UnitColumn(const PlaneCopy& p, int unit, int column) {
    inside = unit < p.units;
    const int row = p.by_row_units.split(unit);
    const int x = 8 * unit + column;
    inside = inside && x < p.width;
    offset = row * p.strides.h + x * p.strides.w;
  }
};

// Of a unit of 8 elements in a line. The 8 lines that a matrix of ldmatrix reads, 8 (r / 2) + r % 2
// for r = 0 ... 7 and an even number more, lie in different banks; so do 8 units of one line.
__device__ __forceinline__ int transpose_offset(int line, int unit) {
  return kTransposeTile * line + 8 * (unit ^ (line / 8 % 4 * 2 + line % 2));
}

}  // namespace detail

template <bool kToPlanes>
__global__ void __launch_bounds__(kTransposeThreads)
    depthwise_conv2d_transpose_kernel(PlaneCopy p) {
  // The launcher makes no copies on older devices.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kTile = kTransposeTile, kUnits = kTile / 8;
  constexpr int kRounds = kTile * kUnits / kTransposeThreads;
  EFFKERN_SHARED(uint16_t, tile, [kTile * kTile]);
  int n = blockIdx.x, channel_block = n;
  n = p.by_channel_blocks.split(channel_block);
  int first_unit = n;
  n = p.by_unit_blocks.split(first_unit);
  first_unit *= kUnits;
  const int first_channel = channel_block * kTile, channels = p.channels - first_channel;
  const int64_t image = n * p.strides.n + first_channel;
  const int64_t plane = 8 * ((int64_t(n) * p.channels + first_channel) * p.units + first_unit);
  const int units = p.units - first_unit;

#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    const int line = threadIdx.x / kUnits + i * (kTransposeThreads / kUnits);
    const int unit = threadIdx.x % kUnits;
    uint16_t* to = tile + detail::transpose_offset(line, unit);
    if constexpr (kToPlanes) {
      const detail::UnitColumn at(p, first_unit + line / 8, line % 8);
      ptx::cp_async<16>(to, p.from + image + at.offset + 8 * unit,
                        at.inside && 8 * unit < channels);
    } else {
      ptx::cp_async<16>(to, p.from + plane + 8 * (int64_t(line) * p.units + unit),
                        line < channels && unit < units);
    }
  }
  ptx::cp_async_wait_all();
  __syncthreads();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    // 32 lines, of which this lane stores 8; 8 elements of each, of which it stores one.
    const int half = i % 2, unit = i / 2 * (kTransposeThreads / 32) + warp;
    const int row = lane % 8, matrix = lane / 8;
    uint32_t r[4];
    ptx::ldmatrix<4, true>(
        r, tile + detail::transpose_offset(32 * half + row / 2 * 8 + matrix * 2 + row % 2, unit));
    const int element = 8 * unit + lane / 4, lines = 4 * half + lane % 4;
    const uint4 words{r[0], r[1], r[2], r[3]};
    if constexpr (kToPlanes) {
      if (element < channels && lines < units) {
        ptx::store_global(p.to + plane + 8 * (int64_t(element) * p.units + lines), words);
      }
    } else {
      const detail::UnitColumn at(p, first_unit + unit, lane / 4);
      if (at.inside && 8 * lines < channels) {
        ptx::store_global(p.to + image + at.offset + 8 * lines, words);
      }
    }
  }
#endif
}

}  // namespace effkern
