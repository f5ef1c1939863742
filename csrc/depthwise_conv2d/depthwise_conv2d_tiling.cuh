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

// A grid of so many blocks; of none, which fails, where a grid cannot have as many.
inline dim3 grid_of(int64_t blocks, int64_t splits = 1) {
  return dim3(unsigned(blocks <= kMaxInt ? blocks : 0), unsigned(splits));
}

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
};

// Neighbouring channel vectors of a block of a kernel that loads `columns` columns for a strip and
// `reach` more: a line of 128 bytes, so that strips beside each other share columns, but no more
// strips than a row has in a warp, whose lanes walk together. Other numbers where they leave fewer
// lanes idle or request fewer sectors.
inline int64_t choose_channel_vectors(int64_t vectors, int64_t bytes_per_vector, int64_t strips,
                                      int64_t columns, int64_t reach, int64_t max_vectors) {
  // What is no more than this counts for nothing.
  constexpr double kCheap = 1.05;
  const int64_t line = std::max(128 / bytes_per_vector, 32 / strips);
  const int64_t sector = 32 / bytes_per_vector;
  int64_t best = 0;
  double least = 0;
  const auto weigh = [&](int64_t most) {
    const int64_t blocks = ceil_div(vectors, most), chosen = ceil_div(vectors, blocks);
    const int64_t slots = kDepthwiseThreads / chosen;
    const int64_t together = std::min(slots, strips) * columns;
    const double lanes = double(blocks * kDepthwiseThreads) / double(vectors * slots);
    const bool whole = blocks == 1 || chosen % sector == 0;
    const double sectors = whole ? 1 : double(chosen + sector - 1) / double(chosen);
    // Half of the bytes are stored.
    const double halo = 1 + double(reach) / double(2 * together);
    const double cost = std::max({kCheap, lanes, sectors * halo});
    if (best == 0 || cost < least) best = chosen, least = cost;
  };
  for (int64_t most = line; most >= line / 2; --most) weigh(most);
  for (int64_t most = line + 1; most <= max_vectors; ++most) weigh(most);
  return best;
}

// Cuts `columns` into strips and `rows` into tiles that a thread walks down; blocks begin at
// multiples of `aligned_vectors` vectors.
inline ChannelsLastTiles tile_channels_last(int64_t batch, int64_t channels, int64_t rows,
                                            int64_t columns, int channels_per_vector,
                                            int columns_per_strip, int64_t max_vectors,
                                            int64_t target_threads = kTargetThreads,
                                            int64_t aligned_vectors = 1) {
  const int64_t vectors = channels / channels_per_vector, blocks = ceil_div(vectors, max_vectors);
  ChannelsLastTiles tiles{};
  tiles.vectors = int(ceil_div(ceil_div(vectors, blocks), aligned_vectors) * aligned_vectors);
  tiles.channel_blocks = int(ceil_div(vectors, tiles.vectors));
  tiles.strips = int(ceil_div(columns, columns_per_strip));
  // A long walk re-reads fewer halo rows and spends fewer multiply-adds on them; a short one gives
  // more threads.
  int64_t walk = 32;
  while (walk > 4 && batch * vectors * tiles.strips * ceil_div(rows, walk) < target_threads)
    walk /= 2;
  tiles.row_tiles = int(ceil_div(rows, walk));
  tiles.rows = int(ceil_div(rows, tiles.row_tiles));
  tiles.items = int(batch * tiles.row_tiles * tiles.strips);
  return tiles;
}

inline int64_t blocks_of(const ChannelsLastTiles& tiles) {
  return tiles.channel_blocks * ceil_div(tiles.items, kDepthwiseThreads / tiles.vectors);
}

}  // namespace effkern
