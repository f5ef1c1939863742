// Launch of the Toeplitz kernels with hooks, where they take the tensors.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_launch.cuh"

namespace effkern {
namespace detail {

// `begin` gets the number of partial sums of each image, and tells whether to launch.
template <typename T, int kKernel, typename Begin>
bool launch_hooked_toeplitz(const DepthwiseImages<T>& images, const Image4<const T>& from,
                            const Image4<T>& to, const Hooked<T>& hooks, Begin begin,
                            cudaStream_t stream, cudaError_t* error) {
  if (transposes_in_blocks(kKernel, kKernel, from, to)) {
    const ToeplitzBlockKernel kernel{kKernel, kKernel, 2};
    ToeplitzBlocks tiles{};
    if (!tile_toeplitz_blocks(images, kernel, &tiles)) return false;
    if (begin(int64_t(tiles.row_tiles) * tiles.column_tiles)) {
      *error = launch_toeplitz_blocks<
          depthwise_conv2d_toeplitz_channels_last_kernel<T, kKernel, Hooked<T>>>(
          images, tiles, kernel, stream, hooks);
    }
    return true;
  }
  if (!has_int_rows(from) || !has_int_rows(to)) return false;
  const int load = widest_row_vector(from), store = widest_row_vector(to);
  ToeplitzPlanes planes{};
  if (has_toeplitz_planes(from) && has_toeplitz_planes(to) &&
      tile_toeplitz_planes(images, kKernel, load, store, &planes)) {
    static_assert(kToeplitzBlockChannels * kWindowSums * sizeof(float) <=
                  kToeplitzBlockWarps * kStagedPairs * kPairPitch * sizeof(T));
    if (begin(1)) {
      *error = launch_toeplitz_plane_tiles<T, Hooked<T>, kKernel>(images, planes, hooks, stream);
    }
    return true;
  }
  ToeplitzTiles tiles{};
  if (!tile_toeplitz(images, kKernel, load, store, &tiles)) return false;
  if (begin(int64_t(tiles.row_tiles) * tiles.column_tiles)) {
    *error = launch_toeplitz_tiles<T, Hooked<T>, kKernel>(images, tiles, hooks, stream);
  }
  return true;
}

// False if the kernels do not take these tensors, or the device has no such instructions; nothing
// was launched then. `parts`: partial sums of each image. With `dry`, nothing is launched.
template <typename T>
bool launch_hooked_toeplitz(const DepthwiseImages<T>& images, int64_t kernel_size,
                            const Image4<const T>& from, const Image4<T>& to, Hooked<T> hooks,
                            int64_t* parts, bool dry, cudaStream_t stream, cudaError_t* error) {
  if (!device_has_capability(80) || !has_int_images(images.batch, from) ||
      !has_int_images(images.batch, to)) {
    return false;
  }
  const auto begin = [&](int64_t count) {
    *parts = count, hooks.parts = int(count);
    return !dry;
  };
  return kernel_size == 5
             ? launch_hooked_toeplitz<T, 5>(images, from, to, hooks, begin, stream, error)
             : launch_hooked_toeplitz<T, 7>(images, from, to, hooks, begin, stream, error);
}

}  // namespace detail
}  // namespace effkern
