// Convolution of small contiguous planes of 16-bit types on tensor cores, k x k with k <= 9, stride
// 1, dilation 1, one output per input channel: planes of up to 16 windows, such as 28 x 28, 14 x 14
// and 7 x 7.
//
// A block has 16 channels of one or several images, whose planes follow each other in memory, so
// that rows of a few bytes are read and written side by side. Products as of channels_last images.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_hooks.cuh"

namespace effkern {

// How a block's threads copy planes: 1 << lane_bits threads a row, `width` elements each, and as
// many rows at a time as there are threads for; whole planes, if those are at least one.
struct ToeplitzPlaneCopy {
  int width, lane_bits, planes_at_once;
  SmallDivisor by_rows;
};

struct ToeplitzPlanes {
  ToeplitzBlocks blocks;
  ToeplitzPlaneCopy input, output;
  // Where each strip is in blocks.strip_order.
  uint64_t strip_places;
};

namespace detail {

// Calls function(row, x, first plane) for all of a thread's rows of height `rows`.
template <typename Function>
__device__ __forceinline__ void for_each_row(const ToeplitzPlaneCopy& copy, int rows,
                                             Function function) {
  int row = threadIdx.x >> copy.lane_bits, plane = 0, step = blockDim.x >> copy.lane_bits;
  const int x = (threadIdx.x & ((1 << copy.lane_bits) - 1)) * copy.width;
  if (copy.planes_at_once > 1) plane = copy.by_rows.split(row), step = rows;
  if (plane >= copy.planes_at_once) return;
#pragma unroll 1
  for (int y = row; y < rows; y += step) function(y, x, plane);
}

// Planes that a thread has under way at a time.
inline constexpr int kCopiedPlanes = 8;

// The planes must be zero. The caller synchronises.
template <int kWidth, typename T>
__device__ __forceinline__ void stage_planes(T* planes, const DepthwiseImages<T>& p,
                                             const ToeplitzPlanes& tiles,
                                             const ToeplitzBlockPlace& place) {
  const ToeplitzBlocks& blocks = tiles.blocks;
  const int channels = min(kToeplitzBlockChannels, p.channels - place.first_channel);
  const int stride_n = int(p.input_strides.n), stride_c = int(p.input_strides.c),
            stride_h = int(p.input_strides.h), planes_at_once = tiles.input.planes_at_once;
  const T* input =
      p.input + (int64_t(place.n) * stride_n + int64_t(place.first_channel) * stride_c);
  for_each_row(tiles.input, p.height, [&](int y, int x, int plane) {
    const int row = y - place.staged_row, column = x + p.pad_left + blocks.shift;
    if (unsigned(row) >= unsigned(blocks.staged_rows) || x >= p.width ||
        unsigned(column) >= unsigned(8 * blocks.units)) {
      return;
    }
    const T* image = input + (y * stride_h + x + plane * stride_c);
    T* panel_to = planes + plane * blocks.plane_pitch + row * blocks.pitch + column;
#pragma unroll 1
    for (int panel = 0; panel < place.panels; ++panel) {
      const T* from = image;
      T* to = panel_to;
      int c = plane;
#pragma unroll 1
      for (; c + (kCopiedPlanes - 1) * planes_at_once < channels;
           c += kCopiedPlanes * planes_at_once) {
        Packed<T, kWidth> values[kCopiedPlanes];
#pragma unroll
        for (int i = 0; i < kCopiedPlanes; ++i, from += planes_at_once * stride_c) {
          values[i] = load<kWidth>(from);
        }
#pragma unroll
        for (int i = 0; i < kCopiedPlanes; ++i, to += planes_at_once * blocks.plane_pitch) {
          store_shared_packed<kWidth>(to, values[i]);
        }
      }
#pragma unroll 1
      for (; c < channels; c += planes_at_once) {
        store_shared_packed<kWidth>(to, load<kWidth>(from));
        from += planes_at_once * stride_c, to += planes_at_once * blocks.plane_pitch;
      }
      image += stride_n, panel_to += blocks.panel_pitch;
    }
  });
}

template <int kWidth, typename T>
__device__ __forceinline__ void store_planes(const T* planes, const DepthwiseImages<T>& p,
                                             const ToeplitzPlanes& tiles,
                                             const ToeplitzBlockPlace& place) {
  const ToeplitzBlocks& blocks = tiles.blocks;
  const int channels = min(kToeplitzBlockChannels, p.channels - place.first_channel);
  const int stride_n = int(p.output_strides.n), stride_c = int(p.output_strides.c),
            stride_h = int(p.output_strides.h), planes_at_once = tiles.output.planes_at_once;
  T* output = p.output + (int64_t(place.n) * stride_n + int64_t(place.first_channel) * stride_c);
  for_each_row(tiles.output, p.out_height, [&](int y, int x, int plane) {
    if (x >= p.out_width) return;
    const int strip = y / kToeplitzBlockRows;
    const T* first = planes + plane * blocks.plane_pitch +
                     (y - strip * kToeplitzBlockRows) * kToeplitzOutputPitch + x;
    // Of the strip of each panel.
    uint64_t places = tiles.strip_places >> 4 * strip;
    T* image = output + (y * stride_h + x + plane * stride_c);
#pragma unroll 1
    for (int panel = 0; panel < place.panels; ++panel) {
      const T* from = first + (8 * (int(places) & 15) << blocks.window_bits);
      T* to = image;
#pragma unroll kCopiedPlanes
      for (int c = plane; c < channels; c += planes_at_once) {
        store_packed_if<kWidth>(true, to, load_shared_packed<kWidth>(from));
        from += planes_at_once * blocks.plane_pitch, to += planes_at_once * stride_c;
      }
      image += stride_n, places >>= 4 << blocks.strip_bits;
    }
  });
}

}  // namespace detail

template <typename T, int kKernel, typename Epilogue>
__global__ void __launch_bounds__(32 * kToeplitzBlockWarps, 4)
    depthwise_conv2d_toeplitz_planes_kernel(DepthwiseImages<T> p, ToeplitzPlanes tiles,
                                            Epilogue epilogue) {
  // The launcher takes other kernels on older devices.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const ToeplitzBlocks& blocks = tiles.blocks;
  // Zeros, planes, taps; with hooks, sums.
  EFFKERN_DYNAMIC_SHARED(T, zeros);
  T* planes = zeros + kZeros;
  T* pairs = planes + kToeplitzBlockChannels * blocks.plane_pitch;
  [[maybe_unused]] float* window_sums =
      reinterpret_cast<float*>(pairs + kToeplitzBlockChannels * 2 * kTapPairs<kKernel>);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  const ToeplitzBlockPlace place(blocks, p, blockIdx.x);
  zero_shared(zeros, kZeros + kToeplitzBlockChannels * blocks.plane_pitch, threadIdx.x,
              32 * kToeplitzBlockWarps);
  stage_tap_pairs<kKernel>(pairs, p, place.first_channel);
  __syncthreads();
  switch (tiles.input.width) {
    case 4:
      detail::stage_planes<4>(planes, p, tiles, place);
      break;
    case 2:
      detail::stage_planes<2>(planes, p, tiles, place);
      break;
    default:
      detail::stage_planes<1>(planes, p, tiles, place);
  }
  __syncthreads();
  const ToeplitzBlockWindow window(blocks, p, place, lane % 16);
#pragma unroll 1
  for (int c = warp; c < kToeplitzBlockChannels; c += kToeplitzBlockWarps) {
    if (place.first_channel + c >= p.channels) break;
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.has_prologue) {
        transform_plane(planes + c * blocks.plane_pitch, p, blocks, place, epilogue,
                        place.first_channel + c, lane);
        __syncwarp();
      }
    }
    convolve_plane<kKernel>(planes + c * blocks.plane_pitch, pairs + c * 2 * kTapPairs<kKernel>,
                            zeros, p, blocks, place, window, epilogue, place.first_channel + c,
                            lane);
    if constexpr (is_hooked<Epilogue>) {
      if (epilogue.moments > 0) {
        sum_windows(window_sums + c * kWindowSums, planes + c * blocks.plane_pitch, p, blocks,
                    place, lane);
      }
    }
  }
  __syncthreads();
  if constexpr (is_hooked<Epilogue>) {
    if (epilogue.moments > 0) reduce_windows(window_sums, epilogue, p, blocks, place);
  }
  switch (tiles.output.width) {
    case 4:
      detail::store_planes<4>(planes, p, tiles, place);
      break;
    case 2:
      detail::store_planes<2>(planes, p, tiles, place);
      break;
    default:
      detail::store_planes<1>(planes, p, tiles, place);
  }
#endif
}

}  // namespace effkern
