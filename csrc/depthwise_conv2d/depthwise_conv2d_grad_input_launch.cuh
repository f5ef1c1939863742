// From a problem to one instantiation of the stride-2 input gradient, its grid and shared memory.
#pragma once

#include <limits>
#include <type_traits>

#include "depthwise_conv2d/depthwise_conv2d_grad_input_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_grad_input_planes_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_planes_tiling.cuh"

namespace effkern::detail {

// Pixel pairs (2 r, 2 r + 1) - pad that overlap [0, size).
inline int64_t count_quads(int64_t size, int64_t pad) {
  return ((size - 1 + pad) >> 1) - (pad >> 1) + 1;
}

// Of a launch: 16 warps on each SM of a large GPU. With fewer, walks are shorter.
inline constexpr int64_t kTargetGradThreads = 1 << 16;

struct GradInputPlanes {
  PlaneLaunch launch;
  // Rows of grad_input.
  int walk;
};

// Walks that leave few lanes idle, and are long: what a thread does before its first row, mostly
// with the taps, costs as much as six.
template <typename T>
GradInputPlanes tile_grad_input_planes(int64_t batch, const Image4<const T>& from,
                                       const Image4<T>& to, int reach) {
  static_assert(kGradColumnsBeyond + 3 * 7 <= 2 * kZeroColumns - kGradZeroColumns);
  constexpr int kMostRows = 32, kStartRows = 6;
  // Shared memory of a thread with which as many fit on an SM as have registers.
  constexpr double kBytes = 352;
  GradInputPlanes best{};
  double least = std::numeric_limits<double>::infinity();
  for (int walk = 2; walk <= kMostRows && walk < to.height + 2; walk += 2) {
    const PlaneLaunch launch = tile_planes(
        batch, from, to, ceil_div(to.height, walk), ceil_div(to.width, kGradColumns), walk,
        kGradColumns, [=](int64_t groups) { return groups * (walk / 2) + reach - 1; },
        [=](int64_t strips) { return strips * (kGradColumns / 2) + reach + 7; },
        {kGradPlaneThreads, kTargetGradThreads, true});
    const int64_t walks = launch.blocks * launch.tiles.rounds * launch.threads;
    const double cost = double(std::max(walks, kTargetGradThreads)) *
                        double(std::min<int64_t>(walk, to.height) + kStartRows) *
                        std::max(1.0, double(launch.shared_memory) / (kBytes * launch.threads));
    if (cost < least) least = cost, best = {launch, walk};
  }
  return best;
}

template <int kKernel, typename T>
cudaError_t launch_channels_last_grad_input(const DepthwiseImages<T>& images, cudaStream_t stream) {
  using Shape = ChannelsLastShape<T, kKernel>;
  // Blocks share no sector of 32 bytes.
  constexpr int64_t kVectors = 32 / (Shape::kChannels * int(sizeof(T)));
  const auto tiles = tile_channels_last(
      images.batch, images.channels, count_quads(images.out_height, images.pad_top),
      count_quads(images.out_width, images.pad_left), Shape::kChannels, 8 / Shape::kChannels,
      kGradVectors, kTargetGradThreads, kVectors);
  return launch_kernel(depthwise_conv2d_channels_last_grad_input_kernel<T, kKernel>,
                       grid_of(blocks_of(tiles)), dim3(kDepthwiseThreads), 0, stream, images,
                       tiles);
}

template <int kKernel, bool kOddPadding, typename T>
cudaError_t launch_contiguous_grad_input(const DepthwiseImages<T>& images,
                                         const Image4<const T>& from, const Image4<T>& to,
                                         cudaStream_t stream) {
  const auto planes = tile_grad_input_planes(images.batch, from, to, (kKernel + 1) / 2);
  return launch_kernel(depthwise_conv2d_contiguous_grad_input_kernel<T, kKernel, kOddPadding>,
                       grid_of(planes.launch.blocks), dim3(planes.launch.threads),
                       planes.launch.shared_memory, stream, images, planes.launch.tiles,
                       planes.walk);
}

template <typename T>
cudaError_t launch_grad_input_stride2(const DepthwiseImages<T>& images, int64_t kernel_size,
                                      bool channels_last, const Image4<const T>& from,
                                      const Image4<T>& to, cudaStream_t stream) {
  const auto launch = [&](auto k) {
    constexpr int kKernel = decltype(k)::value;
    if (channels_last) return launch_channels_last_grad_input<kKernel>(images, stream);
    return images.pad_left % 2
               ? launch_contiguous_grad_input<kKernel, true>(images, from, to, stream)
               : launch_contiguous_grad_input<kKernel, false>(images, from, to, stream);
  };
  return kernel_size == 3 ? launch(std::integral_constant<int, 3>())
                          : launch(std::integral_constant<int, 5>());
}

}  // namespace effkern::detail
