// From a problem over NCHW planes to one instantiation of the contiguous kernel.
#pragma once

#include <type_traits>

#include "depthwise_conv2d/depthwise_conv2d_planes_tiling.cuh"

namespace effkern::detail {

// A thread's tile in the planes' kernel: its columns, and what it relies on.
enum class PlaneShape { kNone, kAny, kFives, kSevens, kFours, kEights };

template <typename T, typename U>
PlaneShape choose_plane_shape(const DepthwiseImages<T>& p, const Image4<const T>& from,
                              const Image4<U>& to, int64_t kernel_size, int64_t stride) {
  const int64_t right = (p.out_width - 1) * stride + kernel_size - p.pad_left - p.width;
  const bool small = kernel_size == 3 && stride == 1;
  if (from.strides.w != 1 || to.strides.w != 1 || p.pad_left < 0 || p.pad_left >= kernel_size ||
      right >= kernel_size || p.out_width < (small ? 5 : 7)) {
    return PlaneShape::kNone;
  }
  if (!small || p.pad_left > 1 || right > 1) return PlaneShape::kAny;
  // A block has whole rows: the lanes beside a thread hold the columns beside its own.
  const auto in_vectors = [&](int64_t elements) {
    return sizeof(T) == 2 && p.pad_left == 1 && p.out_width == p.width &&
           p.width <= elements * kPlaneThreads && from.has_row_vectors(elements) &&
           to.has_row_vectors(elements);
  };
  if (in_vectors(8)) return PlaneShape::kEights;
  if (in_vectors(4)) return PlaneShape::kFours;
  // Rows that are not the first or last k - 1 of a tile are inside the image.
  const int64_t below = (p.out_height - 1) * stride + kernel_size - p.pad_top - p.height;
  if (p.out_width % 7 == 0 && p.out_height % 7 == 0 && p.pad_top < kernel_size &&
      below < kernel_size) {
    return PlaneShape::kSevens;
  }
  return p.out_height > 5 ? PlaneShape::kFives : PlaneShape::kAny;
}

template <int kValue>
using Int = std::integral_constant<int, kValue>;
template <PlaneFit kFit>
using Fit = std::integral_constant<PlaneFit, kFit>;

template <int kKernel, int kStride, int kRows, int kColumns, PlaneFit kFit, typename T,
          typename Epilogue>
cudaError_t launch_plane_tiles(const DepthwiseImages<T>& images, const Image4<const T>& from,
                               const Image4<T>& to, const Epilogue& epilogue, cudaStream_t stream) {
  const PlaneLaunch launch = tile_planes(images.batch, from, to, kKernel, kStride, kRows, kColumns);
  return launch_kernel<
      depthwise_conv2d_contiguous_kernel<T, kKernel, kStride, kRows, kColumns, kFit, Epilogue>>(
      grid_of(launch.blocks), dim3(launch.threads), launch.shared_memory, stream, images,
      launch.tiles, epilogue);
}

template <int kKernel, int kStride, typename T, typename Epilogue>
cudaError_t launch_planes(const DepthwiseImages<T>& images, const Image4<const T>& from,
                          const Image4<T>& to, const Epilogue& epilogue, cudaStream_t stream) {
  const auto launch = [&](auto rows, auto columns, auto fit) {
    return launch_plane_tiles<kKernel, kStride, decltype(rows)::value, decltype(columns)::value,
                              decltype(fit)::value>(images, from, to, epilogue, stream);
  };
  // Larger kernels have more taps in registers, or read more rows.
  if constexpr (kKernel == 3 && kStride == 1) {
    switch (choose_plane_shape(images, from, to, kKernel, kStride)) {
      case PlaneShape::kEights:
        if constexpr (sizeof(T) == 2) return launch(Int<6>(), Int<8>(), Fit<PlaneFit::kVectors>());
        break;
      case PlaneShape::kFours:
        if constexpr (sizeof(T) == 2) return launch(Int<10>(), Int<4>(), Fit<PlaneFit::kVectors>());
        break;
      case PlaneShape::kSevens:
        return launch(Int<7>(), Int<7>(), Fit<PlaneFit::kWhole>());
      case PlaneShape::kFives:
        return launch(Int<10>(), Int<5>(), Fit<PlaneFit::kSame>());
      default:
        break;
    }
    return launch(Int<5>(), Int<5>(), Fit<PlaneFit::kAny>());
  } else {
    constexpr int kRows = kKernel == 7 ? 4 : kKernel == 5 && kStride == 2 ? 5 : 7;
    return launch(Int<kRows>(), Int<7>(), Fit<PlaneFit::kAny>());
  }
}

}  // namespace effkern::detail
