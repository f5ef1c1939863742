// Hooks of the direct kernels: a scale, a shift and an activation of the input on its way in, and
// sums of the stored output. Each block writes its sums once; a second kernel adds those of all
// blocks, always in the same order.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"
#include "depthwise_conv2d/depthwise_conv2d_planes_tile.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

// As an epilogue: BiasActivation with hooks, which switches them on at compile time. All members
// are uniform over a launch.
template <typename T>
struct Hooked : BiasActivation<T> {
  // One number per input channel; null: 1 and 0.
  const float *scale, *shift;
  Activation input_activation;
  bool has_prologue;
  // Sums, and with two moments those of squares: [image][part of it][moment][channel].
  int moments, parts;
  float* partial;

  __device__ __forceinline__ float scale_of(int channel) const {
    return scale ? load_scalar(scale + channel) : 1.f;
  }
  __device__ __forceinline__ float shift_of(int channel) const {
    return shift ? load_scalar(shift + channel) : 0.f;
  }
  __device__ __forceinline__ void store_sum(int64_t part, int moment, int channel, int channels,
                                            float value) const {
    store_scalar(partial + (part * moments + moment) * channels + channel, value);
  }
};

template <typename Epilogue>
inline constexpr bool is_hooked = false;
template <typename T>
inline constexpr bool is_hooked<Hooked<T>> = true;

namespace detail {

// Numbers that pass through the prologue in unrolled code; more, those of 5x5 with stride 2, in a
// loop: 2900 instructions instead of 4700.
inline constexpr int kMostUnrolledPixels = 40;

// As the stored number is read.
template <typename T, int N>
__device__ __forceinline__ void round_as_stored(const float* from, float (&to)[N]) {
  pack<N, T>(from).widen_to(to);
}

}  // namespace detail

// The pixels of a row that a thread of the channels_last kernel has loaded become
// input_activation(scale * value + shift), and zeros outside the image.
template <typename T, int kColumns, int kChannels>
__device__ __forceinline__ void transform_pixels(float (&values)[kColumns][kChannels],
                                                 const bool (&inside)[kColumns],
                                                 const float (&scale)[kChannels],
                                                 const float (&shift)[kChannels],
                                                 const Hooked<T>& hooks) {
  if constexpr (kColumns * kChannels > detail::kMostUnrolledPixels) {
#pragma unroll 1
    for (int i = 0; i < kColumns; ++i) {
      float done[kChannels];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) done[c] = fmaf(scale[c], values[0][c], shift[c]);
      activate<T>(hooks.input_activation, done);
      // The array moves up by one pixel, so that registers can hold it.
#pragma unroll
      for (int j = 0; j < kChannels * (kColumns - 1); ++j) {
        values[j / kChannels][j % kChannels] = values[j / kChannels + 1][j % kChannels];
      }
#pragma unroll
      for (int c = 0; c < kChannels; ++c) values[kColumns - 1][c] = done[c];
    }
#pragma unroll
    for (int i = 0; i < kColumns * kChannels; ++i) {
      if (!inside[i / kChannels]) values[i / kChannels][i % kChannels] = 0.f;
    }
  } else {
    float flat[kColumns * kChannels];
#pragma unroll
    for (int i = 0; i < kColumns * kChannels; ++i) {
      const int c = i % kChannels;
      flat[i] = fmaf(scale[c], values[i / kChannels][c], shift[c]);
    }
    activate<T>(hooks.input_activation, flat);
#pragma unroll
    for (int i = 0; i < kColumns * kChannels; ++i) {
      values[i / kChannels][i % kChannels] = inside[i / kChannels] ? flat[i] : 0.f;
    }
  }
}

// Sums over the pixels that a thread of the channels_last kernel stores, of its channels.
template <int kChannels>
struct ChannelSums {
  float moments[2][kChannels] = {};

  // Of `pixels` neighbours, of which the first `inside` are stored.
  template <typename T, int kPixels>
  __device__ __forceinline__ void add(const float (&values)[kPixels * kChannels], int inside) {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (i >= inside) break;
      float stored[kChannels];
      detail::round_as_stored<T>(values + i * kChannels, stored);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        moments[0][c] += stored[c];
        moments[1][c] = fmaf(stored[c], stored[c], moments[1][c]);
      }
    }
  }

  // Adds up the block's, whose items are of one image. `exchange` holds 2 * kChannels floats for
  // each thread, which nobody else uses any more.
  template <typename T>
  __device__ __forceinline__ void reduce(const Hooked<T>& hooks, const ChannelsLastTiles& tiles,
                                         int first_channel, int channels, float* exchange) const {
    const int slots = blockDim.x / tiles.vectors, slot = threadIdx.x / tiles.vectors;
    const int row = tiles.vectors * kChannels, first = threadIdx.x % tiles.vectors * kChannels;
    __syncthreads();
    if (slot < slots) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        if (m >= hooks.moments) break;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          store_shared(exchange + (slot * hooks.moments + m) * row + first + c, moments[m][c]);
        }
      }
    }
    __syncthreads();
    const int count = hooks.moments * row;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int moment = i >= row, channel = first_channel + i - moment * row;
      if (channel >= channels) continue;
      float total = 0.f;
      for (int other = 0; other < slots; ++other) {
        total += load_shared(exchange + other * count + i);
      }
      hooks.store_sum(blockIdx.x / tiles.channel_blocks, moment, channel, channels, total);
    }
  }
};

// Planes in shared memory become input_activation(scale * plane + shift), rounded to their type.
template <typename T>
__device__ __forceinline__ void transform_planes(T* staged, const PlaneWindow<const T>& window,
                                                 const Hooked<T>& hooks, const Divisor& by_channels,
                                                 int first_plane, int planes) {
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32;
  // A warp for each of many planes, or all threads for one after the other.
  const bool alone = planes >= warps;
  const int step = alone ? 32 : int(blockDim.x), first = alone ? threadIdx.x % 32 : threadIdx.x;
  // Elements between the rows of a window that is no run are of no plane.
#pragma unroll 1
  for (int plane = alone ? warp : 0; plane < planes; plane += alone ? warps : 1) {
    int c = first_plane + plane;
    by_channels.split(c);
    const float scale = hooks.scale_of(c), shift = hooks.shift_of(c);
    T* const elements = staged + plane * window.plane_pitch;
#pragma unroll 1
    for (int i = first; i < window.plane_pitch; i += step) {
      if (!window.is_run && i % window.pitch >= window.columns) continue;
      float value[1];
      load_shared_packed<1>(elements + i).widen_to(value);
      value[0] = fmaf(scale, value[0], shift);
      activate<T>(hooks.input_activation, value);
      store_shared_packed(elements + i, pack<1, T>(value));
    }
  }
}

// Sums over the block's planes, of what its threads left in exchange[moment][thread].
template <typename T>
__device__ __forceinline__ void reduce_planes(const float* exchange, int pitch,
                                              const Hooked<T>& hooks, const PlaneTiles& tiles,
                                              const PlaneItem& item, int channels, int first_plane,
                                              int planes) {
  const int threads = tiles.groups * tiles.strips, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int plane = threadIdx.x / 32; plane < planes; plane += blockDim.x / 32) {
    int c = first_plane + plane;
    const int n = tiles.by_channels.split(c);
    const int64_t part =
        int64_t(n) * hooks.parts + item.row_tile * tiles.column_tiles + item.column_tile;
#pragma unroll 1
    for (int m = 0; m < hooks.moments; ++m) {
      float total = 0.f;
      for (int i = lane; i < threads; i += 32) {
        total += load_shared(exchange + m * pitch + plane * threads + i);
      }
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) total += __shfl_xor_sync(0xffffffffu, total, mask);
      if (lane == 0) hooks.store_sum(part, m, c, channels, total);
    }
  }
}

inline constexpr int kSumsChannels = 32, kSumsRows = 8;

// [group][channel] sums, and of two moments those of squares, over `parts` partial sums of each
// group (an image, or all of them). A block adds 32 channels of one group.
template <typename T>
__global__ void __launch_bounds__(kSumsChannels* kSumsRows)
    depthwise_conv2d_sums_reduce_kernel(const T* partial, T* sum, T* sum_of_squares, int64_t parts,
                                        int moments, int channels) {
  EFFKERN_SHARED(double, totals, [kSumsRows][kSumsChannels]);
  const int blocks = (channels + kSumsChannels - 1) / kSumsChannels;
  const int64_t group = blockIdx.x / blocks;
  const int lane = threadIdx.x % kSumsChannels, row = threadIdx.x / kSumsChannels;
  const int channel = blockIdx.x % blocks * kSumsChannels + lane;
  for (int m = 0; m < moments; ++m) {
    double total = 0;
    if (channel < channels) {
      for (int64_t part = row; part < parts; part += kSumsRows) {
        total += load_scalar(partial + ((group * parts + part) * moments + m) * channels + channel);
      }
    }
    store_shared_packed(&totals[row][lane], pack<1, double>(&total));
    __syncthreads();
    if (row == 0 && channel < channels) {
      for (int other = 1; other < kSumsRows; ++other) {
        double more[1];
        load_shared_packed<1>(&totals[other][lane]).widen_to(more);
        total += more[0];
      }
      store_scalar((m ? sum_of_squares : sum) + group * channels + channel, T(total));
    }
    __syncthreads();
  }
}

}  // namespace effkern
