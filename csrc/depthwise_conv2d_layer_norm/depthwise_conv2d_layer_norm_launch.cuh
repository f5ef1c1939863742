// From a problem and its plan to a launch of the kernel. Host code.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_kernel.cuh"

namespace effkern {
namespace detail {

using LayerNormProblem = DepthwiseConv2dLayerNormCudaProblem;
using LayerNormPlan = DepthwiseConv2dLayerNormCudaPlan;
using LayerNormPointers = DepthwiseConv2dLayerNormCudaPointers;

template <typename T>
LayerNormImages<T> layer_norm_images(const LayerNormProblem& p, const LayerNormPointers& from,
                                     float eps) {
  LayerNormImages<T> images{};
  images.input = static_cast<const T*>(from.input);
  images.weight = static_cast<const T*>(from.weight);
  images.bias = static_cast<const T*>(from.bias);
  images.norm_weight = from.norm_weight, images.norm_bias = from.norm_bias;
  images.output = static_cast<T*>(from.output);
  images.mean = from.mean, images.rstd = from.rstd;
  images.channels = int(p.channels), images.height = int(p.height), images.width = int(p.width);
  images.out_height = int(p.out_height()), images.out_width = int(p.out_width());
  images.pad_top = int(p.pad_top), images.pad_left = int(p.pad_left);
  images.eps = eps, images.per_channel = 1.f / float(p.channels);
  return images;
}

inline LayerNormTiles layer_norm_tiles(const LayerNormProblem& p, const LayerNormPlan& plan) {
  LayerNormTiles tiles{};
  tiles.group = plan.group, tiles.groups = plan.lanes / plan.group;
  tiles.slots = plan.slots, tiles.rows = plan.rows;
  tiles.items = int(p.batch * plan.row_tiles * plan.strips);
  tiles.by_lanes = make_divisor(plan.lanes), tiles.by_group = make_divisor(plan.group);
  tiles.by_strips = make_divisor(plan.strips), tiles.by_row_tiles = make_divisor(plan.row_tiles);
  tiles.weights = plan.weights;
  return tiles;
}

template <typename T, int kKernel, typename Weight>
cudaError_t launch_layer_norm(const LayerNormProblem& p, const LayerNormPlan& plan,
                              const LayerNormPointers& tensors, float eps, cudaStream_t stream) {
  constexpr auto* kKernelFunction = &depthwise_conv2d_layer_norm_kernel<T, kKernel, Weight>;
  const cudaError_t error = allow_shared_memory(kKernelFunction, size_t(plan.shared_memory));
  if (error != cudaSuccess) return error;
  return launch_kernel<kKernelFunction>(
      grid_of(plan.grid), dim3(unsigned(plan.threads)), size_t(plan.shared_memory), stream,
      layer_norm_images<T>(p, tensors, eps), layer_norm_tiles(p, plan));
}

}  // namespace detail

// cudaErrorInvalidValue where the plan refuses the problem; nothing is launched then.
template <typename T>
cudaError_t launch_depthwise_conv2d_layer_norm(const DepthwiseConv2dLayerNormCudaProblem& p,
                                               const DepthwiseConv2dLayerNormCudaPointers& tensors,
                                               float eps, cudaStream_t stream) {
  using namespace detail;
  const LayerNormPlan plan = plan_depthwise_conv2d_layer_norm_cuda(p);
  if (plan.refusal) return cudaErrorInvalidValue;
  if (!device_has_capability(80)) return cudaErrorNotSupported;
  if (p.kernel_h == 3) return launch_layer_norm<T, 3, float>(p, plan, tensors, eps, stream);
  if (p.kernel_h == 5) return launch_layer_norm<T, 5, float>(p, plan, tensors, eps, stream);
  if constexpr (sizeof(T) == 2) {
    if (plan.narrow_weights) return launch_layer_norm<T, 7, T>(p, plan, tensors, eps, stream);
  }
  return launch_layer_norm<T, 7, float>(p, plan, tensors, eps, stream);
}

}  // namespace effkern
