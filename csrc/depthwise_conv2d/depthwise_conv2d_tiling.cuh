// Which problems and tensors the specialised kernels take, and how a launch is cut into blocks.
// Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

inline constexpr int64_t kMaxInt = 0x7fffffff;
// Enough threads for a few waves of a large GPU.
inline constexpr int64_t kTargetThreads = 1 << 18;
// Leaves room for several blocks per SM, and is below the 48 KiB that need no opt-in.
inline constexpr int64_t kMaxStagedBytes = 32 << 10;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline Divisor make_divisor(int64_t divisor) {
  int bits = 0;
  while ((int64_t(1) << bits) < divisor) ++bits;
  return {unsigned(divisor), unsigned(ceil_div(int64_t(1) << (31 + bits), divisor)), 31 + bits};
}

// A tensor as the launchers see it; `data` is const where the kernel only reads.
template <typename T>
struct Image4 {
  T* data;
  int64_t channels, height, width;
  Strides4 strides;

  bool starts_aligned(int64_t elements) const {
    return reinterpret_cast<uintptr_t>(data) % (elements * sizeof(T)) == 0;
  }
  // Vectors of neighbouring channels of every pixel are aligned.
  bool has_channel_vectors(int64_t elements) const {
    return strides.c == 1 && channels % elements == 0 && starts_aligned(elements) &&
           strides.n % elements == 0 && strides.h % elements == 0 && strides.w % elements == 0;
  }
  // Rows are made of whole aligned vectors.
  bool has_row_vectors(int64_t elements) const {
    return strides.w == 1 && width % elements == 0 && starts_aligned(elements) &&
           strides.n % elements == 0 && strides.c % elements == 0 && strides.h % elements == 0;
  }
  int row_vector() const { return has_row_vectors(4) ? 4 : 1; }
};

// Cuts `columns` into strips and `rows` into tiles that a thread walks down, or single rows.
inline ChannelsLastTiles tile_channels_last(int64_t batch, int64_t channels, int64_t rows,
                                            int64_t columns, int channels_per_vector,
                                            int columns_per_strip, int max_vectors,
                                            bool walks_rows) {
  const int64_t vectors = channels / channels_per_vector, blocks = ceil_div(vectors, max_vectors);
  ChannelsLastTiles tiles{};
  tiles.vectors = int(ceil_div(vectors, blocks));
  tiles.channel_blocks = int(ceil_div(vectors, tiles.vectors));
  tiles.strips = int(ceil_div(columns, columns_per_strip));
  // A long walk re-reads fewer halo rows and spends fewer multiply-adds on them; a short one gives
  // more threads.
  int64_t walk = walks_rows ? 32 : 1;
  while (walk > 4 && batch * vectors * tiles.strips * ceil_div(rows, walk) < kTargetThreads)
    walk /= 2;
  tiles.row_tiles = int(ceil_div(rows, walk));
  tiles.rows = int(ceil_div(rows, tiles.row_tiles));
  tiles.items = int(batch * tiles.row_tiles * tiles.strips);
  return tiles;
}

inline int64_t grid_of(const ContiguousTiles& tiles) {
  return int64_t(tiles.plane_blocks) * tiles.row_tiles * tiles.column_tiles;
}

inline int64_t staged_bytes(const ContiguousTiles& tiles, int64_t weights_per_plane) {
  return tiles.planes * (int64_t(tiles.rows) * tiles.pitch + weights_per_plane) *
         int64_t(sizeof(float));
}

inline int64_t grid_of(const ChannelsLastTiles& tiles) {
  return tiles.channel_blocks * ceil_div(tiles.items, kDepthwiseThreads / tiles.vectors);
}

// Cuts planes of rows x columns outputs into blocks of 4 x 4 outputs per thread. Those of one
// thread need in_per_thread input pixels in each direction, and `reach` more after the last thread.
inline ContiguousTiles tile_contiguous(int64_t planes, int64_t rows, int64_t columns,
                                       int in_per_thread, int reach, int load_width,
                                       int store_width, int weights_per_plane) {
  const int64_t all_strips = ceil_div(columns, 4), all_groups = ceil_div(rows, 4);
  ContiguousTiles tiles{};
  tiles.column_tiles = int(ceil_div(all_strips, 32));
  tiles.strips = int(ceil_div(all_strips, tiles.column_tiles));
  tiles.row_tiles = int(ceil_div(all_groups, kDepthwiseThreads / tiles.strips));
  tiles.lead = load_width == 4 ? 4 : 0;
  tiles.columns = tiles.strips * in_per_thread + reach;
  // Room for the load and for the float4 that end past the tile.
  tiles.pitch = int(ceil_div(tiles.lead + tiles.columns + 3, 4) * 4);
  tiles.planes = 1;
  for (;; ++tiles.row_tiles) {
    tiles.groups = int(ceil_div(all_groups, tiles.row_tiles));
    tiles.rows = tiles.groups * in_per_thread + reach;
    if (tiles.groups == 1 || staged_bytes(tiles, weights_per_plane) <= kMaxStagedBytes) break;
  }
  const int64_t fitting = kMaxStagedBytes / staged_bytes(tiles, weights_per_plane);
  tiles.planes = int(std::max<int64_t>(
      1, std::min({planes, fitting, int64_t(kDepthwiseThreads / (tiles.strips * tiles.groups))})));
  tiles.plane_blocks = int(ceil_div(planes, tiles.planes));
  tiles.load_width = load_width, tiles.store_width = store_width;
  const int64_t vectors = ceil_div(tiles.columns + load_width - 1, load_width);
  while ((1 << tiles.lane_bits) < std::min<int64_t>(vectors, 32)) ++tiles.lane_bits;
  return tiles;
}

}  // namespace effkern
