// Whole rows of NCHW planes on their way through shared memory, as they are: in the storage type,
// at addresses that equal those in memory modulo 16 bytes. Planes that lie one behind the other are
// copied 16 bytes at a time whatever their width, without a division.
#pragma once

#include "common/vec.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

// A launch over NCHW planes. A thread owns a fixed tile of rows x columns of one plane; a block
// takes `strips` such tiles next to each other, `groups` one below the other, of `planes` planes at
// a time, and the same tile of the next planes for `rounds` times. Several planes at a time only
// where they are whole.
struct PlaneTiles {
  int planes, groups, strips, rounds;
  int row_tiles, column_tiles;
  // Whether what a block takes at a time is a single run of memory, strides.c after the last.
  bool input_is_run, output_is_run;
  Divisor by_channels, by_row_tiles, by_column_tiles, by_groups, by_strips;
};

// The work of one block and thread. Column tiles are innermost in the grid.
struct PlaneItem {
  int first_plane, row_tile, column_tile;
  int plane, group, strip;

  __device__ __forceinline__ explicit PlaneItem(const PlaneTiles& tiles) {
    int block = blockIdx.x;
    const int tile = tiles.by_column_tiles.quotient(block);
    column_tile = block - tile * tiles.column_tiles;
    const int plane_block = tiles.by_row_tiles.quotient(tile);
    row_tile = tile - plane_block * tiles.row_tiles;
    first_plane = plane_block * tiles.planes * tiles.rounds;
    const int all_groups = tiles.by_strips.quotient(threadIdx.x);
    strip = threadIdx.x - all_groups * tiles.strips;
    plane = tiles.by_groups.quotient(all_groups);
    group = all_groups - plane * tiles.groups;
  }
};

// Rows and columns of a block's planes, all inside the image, and where they are in shared memory.
template <typename T>
struct PlaneWindow {
  // Its first element in the first plane of the tensor.
  T* base;
  Strides4 strides;
  bool is_run;
  int first_row, rows, first_column, columns;
  // Elements from row to row and from plane to plane.
  int pitch, plane_pitch;

  __device__ __forceinline__ PlaneWindow(T* tensor, const Strides4& strides, bool is_run,
                                         int row_begin, int row_end, int column_begin,
                                         int column_end)
      : base(tensor + row_begin * strides.h + column_begin),
        strides(strides),
        is_run(is_run),
        first_row(row_begin),
        rows(max(0, row_end - row_begin)),
        first_column(column_begin),
        columns(column_end - column_begin) {
    constexpr int kVector = 16 / sizeof(T);
    pitch = is_run ? columns : (columns + kVector - 1) & -kVector;
    plane_pitch = rows * pitch;
  }

  // From the first element to another.
  __device__ __forceinline__ int position(int plane, int y, int x) const {
    return plane * plane_pitch + (y - first_row) * pitch + x - first_column;
  }
};

// Whole warps that copy together: those of a block, or some of them.
struct CopyThreads {
  int index, count;
  static __device__ __forceinline__ CopyThreads block() {
    return {int(threadIdx.x), int(blockDim.x)};
  }
};

namespace detail {

template <bool kToShared, int N, typename Shared, typename Global>
__device__ __forceinline__ void move_elements(Shared* shared, Global* global) {
  if constexpr (kToShared) {
    store_shared_packed(shared, load<N>(global));
  } else {
    store_packed(global, load_shared_packed<N>(shared));
  }
}

// `count` neighbouring elements; both addresses are equal modulo 16, and `phase` is that remainder
// in elements.
template <bool kToShared, typename Shared, typename Global>
__device__ __forceinline__ void move_run(Shared* shared, Global* global, int phase, int count,
                                         const CopyThreads& threads) {
  constexpr int kVector = 16 / sizeof(Shared), kUnroll = 4;
  const int head = min(count, -phase & (kVector - 1)), thread = threads.index;
  const int vectors = unsigned(count - head) / kVector, between = vectors * kVector;
  if (thread < count - between) {
    const int at = thread < head ? thread : thread + between;
    move_elements<kToShared, 1>(shared + at, global + at);
  }
  // Vectors that a thread moves at a time are a fixed distance apart.
  const int first = (thread & -32) * kUnroll + thread % 32;
  shared += head + first * kVector;
  global += head + first * kVector;
#pragma unroll 1
  for (int left = vectors - first; left > 0; left -= threads.count * kUnroll) {
    Packed<std::remove_const_t<Global>, kVector> packed[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (left <= 32 * i) continue;
      packed[i] = kToShared ? load<kVector>(global + 32 * i * kVector)
                            : load_shared_packed<kVector>(shared + 32 * i * kVector);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (left <= 32 * i) continue;
      if constexpr (kToShared) {
        store_shared_packed(shared + 32 * i * kVector, packed[i]);
      } else {
        store_packed(global + 32 * i * kVector, packed[i]);
      }
    }
    shared += threads.count * kUnroll * kVector;
    global += threads.count * kUnroll * kVector;
  }
}

// Any strides, one element at a time: views and tiles that are narrower than the plane.
template <bool kToShared, typename Shared, typename Global>
__device__ __forceinline__ void move_rows(Shared* shared, const PlaneWindow<Global>& window,
                                          const Divisor& by_channels, int first_plane, int planes,
                                          const CopyThreads& threads) {
  const int lane = threads.index % 32, warps = threads.count / 32;
  int row = threads.index / 32;
#pragma unroll 1
  for (int plane = 0; plane < planes; ++plane, row -= window.rows) {
    int c = first_plane + plane;
    const int n = by_channels.split(c);
    Global* from = window.base + n * window.strides.n + c * window.strides.c;
#pragma unroll 1
    for (; row < window.rows; row += warps) {
#pragma unroll 1
      for (int x = lane; x < window.columns; x += 32) {
        move_elements<kToShared, 1>(shared + plane * window.plane_pitch + row * window.pitch + x,
                                    from + row * window.strides.h + x);
      }
    }
  }
}

}  // namespace detail

// Where a block is in a window that moves from planes to planes.
template <typename T>
struct PlaneCursor {
  // Of a run: the first element in memory, and how far the next planes are.
  T* run;
  int64_t step;
  // Elements of shared memory before the first, so that vectors of a run are aligned there.
  int phase;

  __device__ __forceinline__ PlaneCursor(const PlaneWindow<T>& window, int first_plane, int planes)
      : run(window.base + first_plane * window.strides.c), step(planes * window.strides.c) {
    phase = window.is_run ? aligned_phase() : 0;
  }

  __device__ __forceinline__ int aligned_phase() const {
    constexpr int kVector = 16 / sizeof(T);
    return int(reinterpret_cast<uintptr_t>(run)) / int(sizeof(T)) & (kVector - 1);
  }

  __device__ __forceinline__ void advance(const PlaneWindow<T>& window) {
    run += step;
    phase = window.is_run ? aligned_phase() : 0;
  }

  // To the same planes of an image that is `images` further.
  __device__ __forceinline__ void skip(const PlaneWindow<T>& window, int images) {
    run += images * window.strides.n;
    phase = window.is_run ? aligned_phase() : 0;
  }
};

// Moves the window of `planes` planes from memory to shared memory or back; the caller
// synchronises.
template <bool kToShared, typename Shared, typename Global>
__device__ __forceinline__ void move_planes(Shared* shared, const PlaneWindow<Global>& window,
                                            const PlaneCursor<Global>& cursor,
                                            const Divisor& by_channels, int first_plane, int planes,
                                            const CopyThreads& threads = CopyThreads::block()) {
  if (window.is_run) {
    detail::move_run<kToShared>(shared + cursor.phase, cursor.run, cursor.phase,
                                planes * window.plane_pitch, threads);
  } else {
    detail::move_rows<kToShared>(shared, window, by_channels, first_plane, planes, threads);
  }
}

}  // namespace effkern
