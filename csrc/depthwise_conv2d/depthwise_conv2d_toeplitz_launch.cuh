// Launch of the Toeplitz kernels, where they take the tensors.
#pragma once

#include <type_traits>

#include "depthwise_conv2d/depthwise_conv2d_toeplitz_tiling.cuh"

namespace effkern {

template <typename T, typename Epilogue>
inline constexpr bool has_toeplitz_kernels =
    sizeof(T) == 2 && std::is_same_v<Epilogue, BiasActivation<T>>;

namespace detail {

// Rows and images lie so far apart that an int is enough.
template <typename T>
bool has_int_strides(const Image4<T>& image) {
  return image.strides.w == 1 && image.strides.n <= kMaxInt &&
         image.height * image.strides.h <= kMaxInt;
}

template <typename T>
int widest_row_vector(const Image4<T>& image) {
  for (int elements : {8, 4, 2}) {
    if (image.has_row_vectors(elements)) return elements;
  }
  return 1;
}

// Calls function(kernel size) with the sizes of has_toeplitz_cuda_kernel as constants.
template <typename Function>
cudaError_t with_toeplitz_kernel(int64_t kernel_size, Function function) {
  if (kernel_size == 5) return function(std::integral_constant<int, 5>());
  if (kernel_size == 7) return function(std::integral_constant<int, 7>());
  return function(std::integral_constant<int, 9>());
}

// False if the kernels do not take these tensors, or the device has no such instructions; nothing
// was launched then.
template <typename T, typename Epilogue>
bool launch_toeplitz(const DepthwiseImages<T>& images, int64_t kernel_size,
                     const Image4<const T>& from, const Image4<T>& to, const Epilogue& epilogue,
                     cudaStream_t stream, cudaError_t* error) {
  if (!has_int_strides(from) || !has_int_strides(to)) return false;
  ToeplitzTiles tiles;
  if (!tile_toeplitz(images, int(kernel_size), 2, widest_row_vector(from), widest_row_vector(to),
                     &tiles)) {
    return false;
  }
  if (!device_has_capability(80)) return false;
  *error = with_toeplitz_kernel(kernel_size, [&](auto k) {
    constexpr int kKernel = decltype(k)::value;
    const int64_t bytes = tiles.warps * toeplitz_warp_bytes(tiles, 2 * kKernel * kTapPitch<2>);
    return launch_kernel(depthwise_conv2d_toeplitz_kernel<T, kKernel, Epilogue>,
                         dim3(unsigned(ceil_div(tiles.jobs, tiles.warps))),
                         dim3(unsigned(32 * tiles.warps)), size_t(bytes), stream, images, tiles,
                         epilogue);
  });
  return true;
}

}  // namespace detail
}  // namespace effkern
