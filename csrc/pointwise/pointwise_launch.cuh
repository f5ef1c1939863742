// From a problem and its plan to a launch of the kernel. Host code.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "pointwise/pointwise_cuda.h"
#include "pointwise/pointwise_kernel.cuh"

namespace effkern {
namespace detail {

template <typename T>
PointwiseImages<T> images_of(const PointwiseCudaProblem& p, const PointwiseCudaPointers& from) {
  const auto tensor = [](const void* data) { return static_cast<const T*>(data); };
  PointwiseImages<T> images{};
  images.input = tensor(from.input), images.weight = tensor(from.weight);
  images.bias = tensor(from.bias), images.gate = tensor(from.gate);
  images.scale = tensor(from.scale), images.residual = tensor(from.residual);
  images.output = static_cast<T*>(from.output);
  images.images = int(p.images), images.pixels = int(p.images * p.pixels);
  images.in_channels = int(p.in_channels), images.out_channels = int(p.out_channels);
  images.activation = p.activation;
  return images;
}

inline PointwiseTiles tiles_of(const PointwiseCudaProblem& p, const PointwiseCudaPlan& plan) {
  PointwiseTiles tiles{};
  tiles.slices = int(ceil_div(p.in_channels, kPointwiseSlice));
  tiles.gate_rows = plan.gate_rows;
  tiles.stage = kPointwiseSlice * (plan.tile_pixels + plan.tile_channels + plan.gate_rows);
  tiles.by_channel_tiles = make_divisor(ceil_div(p.out_channels, plan.tile_channels));
  tiles.by_image_pixels = make_divisor(p.pixels);
  return tiles;
}

template <typename T, int kChannels, bool kGated, bool kActivated>
cudaError_t launch_pointwise(const PointwiseCudaProblem& p, const PointwiseCudaPlan& plan,
                             const PointwiseCudaPointers& tensors, cudaStream_t stream) {
  constexpr auto* kKernel = &pointwise_kernel<T, kChannels, kGated, kActivated>;
  const cudaError_t error = allow_shared_memory(kKernel, size_t(plan.shared_memory));
  if (error != cudaSuccess) return error;
  return launch_kernel<kKernel>(dim3(unsigned(plan.grid)), dim3(unsigned(32 * plan.warps)),
                                size_t(plan.shared_memory), stream, images_of<T>(p, tensors),
                                tiles_of(p, plan));
}

template <typename T, int kChannels>
cudaError_t launch_pointwise(const PointwiseCudaProblem& p, const PointwiseCudaPlan& plan,
                             const PointwiseCudaPointers& tensors, cudaStream_t stream) {
  if (p.has_gate) return launch_pointwise<T, kChannels, true, false>(p, plan, tensors, stream);
  if (p.activation != Activation::kNone)
    return launch_pointwise<T, kChannels, false, true>(p, plan, tensors, stream);
  return launch_pointwise<T, kChannels, false, false>(p, plan, tensors, stream);
}

}  // namespace detail

// cudaErrorInvalidValue where the plan refuses the problem; nothing is launched then.
template <typename T>
cudaError_t launch_pointwise(const PointwiseCudaProblem& p, const PointwiseCudaPointers& tensors,
                             cudaStream_t stream) {
  const PointwiseCudaPlan plan = plan_pointwise_cuda(p);
  if (plan.refusal) return cudaErrorInvalidValue;
  if (!device_has_capability(80)) return cudaErrorNotSupported;
  if (plan.tile_channels == 64) return detail::launch_pointwise<T, 64>(p, plan, tensors, stream);
  return detail::launch_pointwise<T, 128>(p, plan, tensors, stream);
}

}  // namespace effkern
