// From a problem with hooks to one instantiation of the direct or Toeplitz kernels, its grid and
// its workspace.
#pragma once

#include <numeric>

#include "depthwise_conv2d/depthwise_conv2d_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_hooks_launch.cuh"

namespace effkern {
namespace detail {

// The tiles of a launch whose blocks take items of one image each: as many row tiles as fill whole
// blocks.
template <typename T, int kKernel>
ChannelsLastTiles tile_hooked_channels_last(const DepthwiseImages<T>& p) {
  using Shape = ChannelsLastShape<T, kKernel>;
  ChannelsLastTiles tiles =
      tile_channels_last(p.batch, p.channels, p.out_height, p.out_width, Shape::kChannels,
                         Shape::kOutputs / Shape::kChannels, Shape::kMaxVectors);
  const int slots = kDepthwiseThreads / tiles.vectors;
  const int step = slots / std::gcd(slots, tiles.strips);
  tiles.row_tiles = int(ceil_div(tiles.row_tiles, step) * step);
  tiles.rows = int(ceil_div(p.out_height, tiles.row_tiles));
  tiles.items = p.batch * tiles.row_tiles * tiles.strips;
  return tiles;
}

// Calls function(kernel size, stride) with those that have hooks as constants; what is left of the
// specialised ones takes tensor cores.
template <typename T, typename Function>
cudaError_t with_hooked_kernel(int64_t kernel_size, int64_t stride, Function function) {
  if constexpr (sizeof(T) == 4) return with_kernel_and_stride(kernel_size, stride, function);
  if (kernel_size == 5) return call_with<5, 2>(function);
  return stride == 1 ? call_with<3, 1>(function) : call_with<3, 2>(function);
}

template <int kKernel, int kStride, typename T>
cudaError_t launch_hooked_channels_last(const DepthwiseImages<T>& images, Hooked<T> hooks,
                                        int64_t* parts, bool dry, cudaStream_t stream) {
  const ChannelsLastTiles tiles = tile_hooked_channels_last<T, kKernel>(images);
  *parts = int64_t(tiles.row_tiles) * tiles.strips / (kDepthwiseThreads / tiles.vectors);
  if (dry) return cudaSuccess;
  hooks.parts = int(*parts);
  return launch_kernel<depthwise_conv2d_channels_last_kernel<T, kKernel, kStride, Hooked<T>>>(
      grid_of(blocks_of(tiles)), dim3(kDepthwiseThreads), 0, stream, images, tiles, hooks);
}

template <int kKernel, int kStride, int kRows, int kColumns, PlaneFit kFit, typename T>
cudaError_t launch_hooked_tiles(const DepthwiseImages<T>& images, const Image4<const T>& from,
                                const Image4<T>& to, Hooked<T> hooks, int64_t* parts, bool dry,
                                cudaStream_t stream) {
  const PlaneLaunch launch = tile_planes(images.batch, from, to, kKernel, kStride, kRows, kColumns);
  *parts = int64_t(launch.tiles.row_tiles) * launch.tiles.column_tiles;
  if (dry) return cudaSuccess;
  hooks.parts = int(*parts);
  return launch_kernel<
      depthwise_conv2d_contiguous_kernel<T, kKernel, kStride, kRows, kColumns, kFit, Hooked<T>>>(
      grid_of(launch.blocks), dim3(launch.threads), launch.shared_memory, stream, images,
      launch.tiles, hooks);
}

template <int kKernel, int kStride, typename T>
cudaError_t launch_hooked_planes(const DepthwiseImages<T>& images, const Image4<const T>& from,
                                 const Image4<T>& to, const Hooked<T>& hooks, int64_t* parts,
                                 bool dry, cudaStream_t stream) {
  // Fewer rows than without hooks where ptxas would run out of registers.
  if constexpr (kKernel == 3 && kStride == 1) {
    if (choose_plane_shape(images, from, to, kKernel, kStride) != PlaneShape::kAny &&
        images.out_height > 5) {
      return launch_hooked_tiles<kKernel, kStride, 8, 5, PlaneFit::kSame>(images, from, to, hooks,
                                                                          parts, dry, stream);
    }
    return launch_hooked_tiles<kKernel, kStride, 5, 5, PlaneFit::kAny>(images, from, to, hooks,
                                                                       parts, dry, stream);
  } else {
    constexpr int kRows = kKernel == 7 ? 4 : kKernel == 3 ? 7 : kStride == 1 ? 6 : 5;
    return launch_hooked_tiles<kKernel, kStride, kRows, 7, PlaneFit::kAny>(images, from, to, hooks,
                                                                           parts, dry, stream);
  }
}

}  // namespace detail

// output = activation(convolution(input_activation(scale * input + shift)) + bias), and its sums.
// False if no kernel takes these tensors; nothing was launched then. `parts`: partial sums of each
// image. With `dry`, nothing is launched.
template <typename T>
bool launch_fused(const DepthwiseConv2dProblem& p, const Image4<const T>& from, const T* weight,
                  const Image4<T>& to, const Hooked<T>& hooks, int64_t* parts, bool dry,
                  cudaStream_t stream, cudaError_t* error) {
  if (!has_hooked_cuda_kernel(p)) return false;
  const auto images =
      detail::describe_images(p.batch, from, weight, to, p.pad_top, p.pad_left, false);
  if constexpr (sizeof(T) == 2) {
    if (has_toeplitz_cuda_kernel(p)) {
      return detail::launch_hooked_toeplitz(images, p.kernel_h, from, to, hooks, parts, dry, stream,
                                            error);
    }
  }
  const bool channels_last = detail::has_channel_vectors(p.kernel_h, from, to);
  if (!channels_last && detail::choose_plane_shape(images, from, to, p.kernel_h, p.stride_h) ==
                            detail::PlaneShape::kNone) {
    return false;
  }
  *error = detail::with_hooked_kernel<T>(p.kernel_h, p.stride_h, [&](auto k, auto s) {
    constexpr int kKernel = decltype(k)::value, kStride = decltype(s)::value;
    if (channels_last) {
      return detail::launch_hooked_channels_last<kKernel, kStride>(images, hooks, parts, dry,
                                                                   stream);
    }
    return detail::launch_hooked_planes<kKernel, kStride>(images, from, to, hooks, parts, dry,
                                                          stream);
  });
  return true;
}

}  // namespace effkern
