// Launch of the Toeplitz kernels, where they take the tensors.
#pragma once

#include <algorithm>
#include <type_traits>

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "depthwise_conv2d/depthwise_conv2d_toeplitz_block_tiling.cuh"

namespace effkern {

template <typename T, typename Epilogue>
inline constexpr bool has_toeplitz_kernels =
    sizeof(T) == 2 && std::is_same_v<Epilogue, BiasActivation<T>>;

namespace detail {

// Columns are neighbours, and an int holds the offsets in a plane, up to 128 rows past the image.
template <typename T>
bool has_int_rows(const Image4<T>& image) {
  return image.strides.w == 1 && (image.height + 128) * image.strides.h <= kMaxInt;
}

// Images lie so far apart that an int is enough.
template <typename T>
bool has_int_images(int64_t batch, const Image4<T>& image) {
  return batch == 1 || image.strides.n <= kMaxInt;
}

template <typename T>
int widest_row_vector(const Image4<T>& image) {
  for (int elements : {8, 4, 2}) {
    if (image.has_row_vectors(elements)) return elements;
  }
  return 1;
}

template <typename T, typename Epilogue, int kKernel>
cudaError_t launch_toeplitz_tiles(const DepthwiseImages<T>& images, const ToeplitzTiles& tiles,
                                  const Epilogue& epilogue, cudaStream_t stream) {
  const int64_t bytes = tiles.warps * toeplitz_warp_bytes(tiles, 2 * kKernel * kTapPitch<2>);
  return launch_kernel<depthwise_conv2d_toeplitz_kernel<T, kKernel, Epilogue>>(
      grid_of(ceil_div(tiles.jobs, tiles.warps)), dim3(unsigned(32 * tiles.warps)), size_t(bytes),
      stream, images, tiles, epilogue);
}

template <typename T, typename Epilogue, int kKernel>
bool launch_toeplitz(const DepthwiseImages<T>& images, int load_width, int store_width,
                     const Epilogue& epilogue, cudaStream_t stream, cudaError_t* error) {
  ToeplitzTiles tiles{};
  if (!tile_toeplitz(images, kKernel, load_width, store_width, &tiles)) return false;
  *error = launch_toeplitz_tiles<T, Epilogue, kKernel>(images, tiles, epilogue, stream);
  return true;
}

template <typename T, typename Epilogue, int kHalves>
bool launch_toeplitz_large(const DepthwiseImages<T>& images, int kernel_h, int kernel_w,
                           int load_width, int store_width, const Epilogue& epilogue,
                           cudaStream_t stream, cudaError_t* error) {
  ToeplitzTiles tiles{};
  if (!tile_toeplitz_large(images, kernel_h, kernel_w, kHalves, load_width, store_width, &tiles)) {
    return false;
  }
  *error = launch_kernel<depthwise_conv2d_toeplitz_large_kernel<T, kHalves, Epilogue>>(
      grid_of(tiles.jobs), dim3(32 * kToeplitzWarps),
      size_t(toeplitz_large_bytes(tiles, kernel_h, kHalves)), stream, images, tiles, kernel_h,
      kernel_w, epilogue);
  return true;
}

// With the kernel function's arguments after the tiles.
template <auto kKernelFunction, typename T, typename... Arguments>
cudaError_t launch_toeplitz_blocks(const DepthwiseImages<T>& images, const ToeplitzBlocks& tiles,
                                   const ToeplitzBlockKernel& kernel, cudaStream_t stream,
                                   const Arguments&... arguments) {
  const int64_t blocks =
      ceil_div(tiles.panel_count, tiles.panels) * tiles.column_tiles * tiles.channel_blocks;
  const cudaError_t error = allow_shared_memory(kKernelFunction, size_t(kToeplitzMostBytes));
  if (error != cudaSuccess) return error;
  return launch_kernel<kKernelFunction>(grid_of(blocks), dim3(32 * kToeplitzBlockWarps),
                                        size_t(toeplitz_block_bytes(tiles, kernel)), stream, images,
                                        tiles, arguments...);
}

template <typename T, typename Epilogue, int kKernel>
bool launch_toeplitz_channels_last(const DepthwiseImages<T>& images, const Epilogue& epilogue,
                                   cudaStream_t stream, cudaError_t* error) {
  const ToeplitzBlockKernel kernel{kKernel, kKernel, 2};
  ToeplitzBlocks tiles{};
  if (!tile_toeplitz_blocks(images, kernel, &tiles)) return false;
  *error =
      launch_toeplitz_blocks<depthwise_conv2d_toeplitz_channels_last_kernel<T, kKernel, Epilogue>>(
          images, tiles, kernel, stream, epilogue);
  return true;
}

template <typename T, typename Epilogue>
bool launch_toeplitz_channels_last_large(const DepthwiseImages<T>& images, int kernel_h,
                                         int kernel_w, const Epilogue& epilogue,
                                         cudaStream_t stream, cudaError_t* error) {
  constexpr int kHalves = 3;
  static_assert(kMaxTransposedKernelW <= 8 * kHalves - 7);
  const int rows = int(ceil_div(kernel_h, kToeplitzBlockRows)) * kToeplitzBlockRows;
  const ToeplitzBlockKernel kernel{rows, kernel_w, kHalves};
  ToeplitzBlocks tiles{};
  if (!tile_toeplitz_blocks(images, kernel, &tiles)) return false;
  const ToeplitzBlockTaps taps{kernel_h, kernel_w, rows, make_small_divisor(kernel_w + 2),
                               make_small_divisor(rows)};
  *error = launch_toeplitz_blocks<
      depthwise_conv2d_toeplitz_channels_last_large_kernel<T, kHalves, Epilogue>>(
      images, tiles, kernel, stream, taps, epilogue);
  return true;
}

template <typename T, typename Epilogue, int kKernel>
cudaError_t launch_toeplitz_plane_tiles(const DepthwiseImages<T>& images,
                                        const ToeplitzPlanes& tiles, const Epilogue& epilogue,
                                        cudaStream_t stream) {
  const ToeplitzBlocks& blocks = tiles.blocks;
  constexpr auto kKernelFunction = depthwise_conv2d_toeplitz_planes_kernel<T, kKernel, Epilogue>;
  const cudaError_t error = allow_shared_memory(kKernelFunction, size_t(kToeplitzMostBytes));
  if (error != cudaSuccess) return error;
  return launch_kernel<kKernelFunction>(
      grid_of(ceil_div(blocks.panel_count, blocks.panels) * blocks.channel_blocks),
      dim3(32 * kToeplitzBlockWarps), size_t(toeplitz_block_bytes(blocks, {kKernel, kKernel, 2})),
      stream, images, tiles, epilogue);
}

template <typename T, typename Epilogue, int kKernel>
bool launch_toeplitz_planes(const DepthwiseImages<T>& images, int load_width, int store_width,
                            const Epilogue& epilogue, cudaStream_t stream, cudaError_t* error) {
  ToeplitzPlanes tiles{};
  if (!tile_toeplitz_planes(images, kKernel, load_width, store_width, &tiles)) return false;
  *error = launch_toeplitz_plane_tiles<T, Epilogue, kKernel>(images, tiles, epilogue, stream);
  return true;
}

// Vectors of 8 channels; an int holds the offsets of a block, up to 128 rows and columns past the
// image.
template <typename T>
bool has_toeplitz_channels(const Image4<T>& image) {
  return image.has_channel_vectors(8) && image.strides.h <= kMaxInt / 1024 &&
         image.strides.w <= kMaxInt / 1024 && image.width * image.strides.w <= kMaxInt / 8;
}

// Whether a kernel transposes both tensors' tiles in shared memory.
template <typename T, typename U>
bool transposes_in_blocks(int64_t kernel_h, int64_t kernel_w, const Image4<T>& from,
                          const Image4<U>& to) {
  return kernel_h <= kMaxTransposedKernelH && kernel_w <= kMaxTransposedKernelW &&
         has_toeplitz_channels(from) && has_toeplitz_channels(to);
}

// An int holds the offsets of a block's planes.
template <typename T>
bool has_toeplitz_planes(const Image4<T>& image) {
  return image.strides.c <= kMaxInt / 64 && image.height * image.strides.h <= kMaxInt / 2;
}

// False if the kernels do not take these tensors, or the device has no such instructions; nothing
// was launched then.
template <typename T, typename Epilogue>
bool launch_toeplitz(const DepthwiseImages<T>& images, int kernel_h, int kernel_w,
                     const Image4<const T>& from, const Image4<T>& to, const Epilogue& epilogue,
                     cudaStream_t stream, cudaError_t* error) {
  if (!device_has_capability(80) || !has_int_images(images.batch, from) ||
      !has_int_images(images.batch, to)) {
    return false;
  }
  if (transposes_in_blocks(kernel_h, kernel_w, from, to)) {
    switch (kernel_h == kernel_w ? kernel_h : 0) {
      case 5:
        return launch_toeplitz_channels_last<T, Epilogue, 5>(images, epilogue, stream, error);
      case 7:
        return launch_toeplitz_channels_last<T, Epilogue, 7>(images, epilogue, stream, error);
      default:
        return launch_toeplitz_channels_last_large<T, Epilogue>(images, kernel_h, kernel_w,
                                                                epilogue, stream, error);
    }
  }
  if (!has_int_rows(from) || !has_int_rows(to)) return false;
  const int load = widest_row_vector(from), store = widest_row_vector(to);
  if (kernel_h == kernel_w && (kernel_h == 5 || kernel_h == 7) && has_toeplitz_planes(from) &&
      has_toeplitz_planes(to)) {
    const bool launched =
        kernel_h == 5
            ? launch_toeplitz_planes<T, Epilogue, 5>(images, load, store, epilogue, stream, error)
            : launch_toeplitz_planes<T, Epilogue, 7>(images, load, store, epilogue, stream, error);
    if (launched) return true;
  }
  if (kernel_h == kernel_w) {
    switch (kernel_h) {
      case 5:
        return launch_toeplitz<T, Epilogue, 5>(images, load, store, epilogue, stream, error);
      case 7:
        return launch_toeplitz<T, Epilogue, 7>(images, load, store, epilogue, stream, error);
      case 9:
        return launch_toeplitz<T, Epilogue, 9>(images, load, store, epilogue, stream, error);
    }
  }
  const auto launch_large = [&](auto halves) {
    return launch_toeplitz_large<T, Epilogue, decltype(halves)::value>(
        images, kernel_h, kernel_w, load, store, epilogue, stream, error);
  };
  // 8 outputs meet kernel_w + 7 columns.
  if (kernel_w <= 9) return launch_large(std::integral_constant<int, 2>());
  if (kernel_w <= 17) return launch_large(std::integral_constant<int, 3>());
  if (kernel_w <= 33) return launch_large(std::integral_constant<int, 5>());
  return launch_large(std::integral_constant<int, 8>());
}

// Whether images lie further apart than an int holds, which the tensor-core kernels then take one
// at a time; that costs a launch for gigabytes.
template <typename T, typename Epilogue>
bool takes_single_images(const DepthwiseConv2dProblem& p, const Strides4& input,
                         const Strides4& output) {
  return has_toeplitz_kernels<T, Epilogue> && p.batch > 1 && has_toeplitz_cuda_kernel(p) &&
         std::max(input.n, output.n) > kMaxInt;
}

// Calls launch(problem of one image, its number) for each until one fails.
template <typename Launch>
cudaError_t for_each_image(DepthwiseConv2dProblem p, Launch launch) {
  const int64_t images = p.batch;
  p.batch = 1;
  cudaError_t error = cudaSuccess;
  for (int64_t n = 0; n < images && error == cudaSuccess; ++n) error = launch(p, n);
  return error;
}

}  // namespace detail
}  // namespace effkern
