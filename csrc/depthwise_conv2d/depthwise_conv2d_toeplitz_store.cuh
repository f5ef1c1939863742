// The way of finished sums from the accumulators of a warp to memory, for the Toeplitz kernels.
//
// The fragments of a product hold two neighbouring outputs of each of two windows per lane. They go
// through shared memory, as float, in runs: outputs that are neighbours in memory. The runs are read
// back, finished and stored in vectors of 8, which are aligned in memory: the shared copy of a run
// starts as many elements past an aligned address as the run itself.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_tile.cuh"

namespace effkern {

inline constexpr int kToeplitzVector = 8;

// What a warp has to know of each of its up to 16 strips to store them, in shared memory. `offset`
// is that of the strip's first output from the channel's; `rows` are those inside the image.
struct ToeplitzSlot {
  int64_t offset;
  int n, rows;

  __device__ __forceinline__ void store(int* to) const {
    store_shared_packed<4>(to, Packed<int, 4>{{unsigned(offset), unsigned(uint64_t(offset) >> 32),
                                               unsigned(n), unsigned(rows)}});
  }
  static __device__ __forceinline__ ToeplitzSlot load(const int* from) {
    const uint4 bits = load_shared_packed<4>(from).bits;
    return {int64_t(uint64_t(bits.y) << 32 | bits.x), int(bits.z), int(bits.w)};
  }
};

// The strips first_strip... of the panels from first_panel on. The caller synchronises.
template <typename T>
__device__ __forceinline__ void describe_slots(int* slots, const DepthwiseImages<T>& p,
                                               const ToeplitzTiles& tiles, int first_panel,
                                               int first_strip, int count, int x_tile, int lane) {
  if (lane >= 16) return;
  int strip = first_strip + lane;
  const int panel = first_panel + tiles.by_strips.split(strip);
  const bool valid = lane < count && panel < tiles.panel_count;
  const ToeplitzPanel at(tiles, valid ? panel : 0);
  const int y = at.row + strip * tiles.rows;
  const int64_t offset = int64_t(at.n) * int(p.output_strides.n) +
                         (int64_t(y) * int(p.output_strides.h) + x_tile);
  ToeplitzSlot{offset, at.n, valid ? min(tiles.rows, p.out_height - y) : 0}.store(slots + 4 * lane);
}

// Elements from an address that is aligned to a vector of them.
template <typename T>
__device__ __forceinline__ int skew_of(const T* address) {
  return int(reinterpret_cast<uintptr_t>(address) / sizeof(T) % kToeplitzVector);
}

// Where a lane puts its part of a window's outputs: columns 2 (lane % 4) and the next.
struct ToeplitzItem {
  float* finished;
  unsigned origin;
  bool first, second;

  // `item` counts the windows of the warp.
  template <typename T>
  __device__ __forceinline__ ToeplitzItem(const ToeplitzTiles& tiles, const int* slots,
                                          const T* output, int columns, int item, int lane,
                                          float* warp_finished) {
    int window = item;
    const int slot = tiles.by_windows.split(window);
    const int x = 8 * window + 2 * (lane % 4) + tiles.first_output;
    // The last window may have no strip of its own.
    const ToeplitzSlot at = ToeplitzSlot::load(slots + 4 * slot);
    first = at.rows > 0 && unsigned(x) < unsigned(columns);
    second = at.rows > 0 && unsigned(x + 1) < unsigned(columns);
    // Only its remainder matters, so that overflow does not.
    origin = unsigned(reinterpret_cast<uintptr_t>(output) / sizeof(T)) + unsigned(at.offset);
    finished = warp_finished + slot * tiles.slot_pitch + x;
  }

  // The place in the run that starts in row first_row of the strip.
  __device__ __forceinline__ float* start(int first_row, int stride_h) const {
    return finished + (origin + unsigned(first_row) * unsigned(stride_h)) % kToeplitzVector;
  }
};

namespace detail {

// NaN in one of the values makes the sum NaN; so may infinities.
template <int N>
__device__ __forceinline__ bool may_have_nan(const float (&values)[N]) {
  float sum = values[0];
#pragma unroll
  for (int i = 1; i < N; ++i) sum += values[i];
  return !(sum == sum);
}

// values[j] to run[i + j] where that is inside the run.
template <typename T>
__device__ __forceinline__ void store_part(T* run, int i, int length, const float* values) {
#pragma unroll
  for (int j = 0; j < kToeplitzVector; j += 4) {
    const bool whole = i + j >= 0 && i + j + 4 <= length;
    store_if<4>(whole, run + i + j, values + j);
#pragma unroll
    for (int k = j; k < j + 4; ++k) {
      store_if<1>(!whole && unsigned(i + k) < unsigned(length), run + i + k, values + k);
    }
  }
}

}  // namespace detail

// Finishes and stores up to kRows rows, from first_row on, of a warp's slots. A run may go over the
// ends of rows: the epilogue is told where it begins. repair(run, begin, end, columns, slot, row)
// computes again what is NaN in run[begin...end), whose first element is in that row of the strip.
template <int kRows, typename T, typename Epilogue, typename Repair>
__device__ __forceinline__ void store_runs(float* finished, const int* slots,
                                           const ToeplitzTiles& tiles, T* output, int stride_h,
                                           int channel, int count, int columns, int first_row,
                                           int lane, float bias, const Epilogue& epilogue,
                                           const Repair& repair) {
  constexpr int kVector = kToeplitzVector;
  int lane_unit = lane;
  const int lane_run = tiles.by_run_lanes.split(lane_unit);
  if (lane_run >= tiles.runs_at_once) return;
  for (int run = lane_run; run < count * tiles.runs_per_slot; run += tiles.runs_at_once) {
    int row = run;
    const int slot = tiles.by_runs.split(row);
    const ToeplitzSlot at = ToeplitzSlot::load(slots + 4 * slot);
    const int strip_row = first_row + row;
    const int length =
        min(at.rows - strip_row, tiles.runs_per_slot == 1 ? kRows : 1) * columns;
    if (length <= 0) continue;
    T* to = output + (at.offset + int64_t(first_row) * stride_h);
    // row_pitch and stride_h have the same remainder.
    float* from = finished + slot * tiles.slot_pitch + skew_of(to) + row * tiles.row_pitch;
    to += row * stride_h;
    const int skew = skew_of(to);
#pragma unroll 1
    for (int i = lane_unit * kVector - skew; i < length; i += tiles.run_lanes * kVector) {
      float values[kVector];
      load_shared<kVector, 4>(from + i, values);
      if (detail::may_have_nan(values)) {
        repair(from, max(i, 0), min(i + kVector, length), columns, slot, strip_row);
        load_shared<kVector, 4>(from + i, values);
      }
      if (bias != 0.f) {
#pragma unroll
        for (float& value : values) value += bias;
      }
      const bool whole = i >= 0 && i + kVector <= length;
      // A way of its own for most: no registers are moved for the sake of the others.
      if (whole && !epilogue.changes_values()) {
        store<kVector>(to + i, values);
        continue;
      }
      epilogue.template finish<TileOrder::kRowsColumns, 1, kVector>(
          values, {at.n, channel, strip_row, i, 1, kVector});
      store_if<kVector>(whole, to + i, values);
      if (!whole) detail::store_part(to, i, length, values);
    }
  }
}

}  // namespace effkern
