// From a problem and its plan to a launch of the kernel. Host code.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "fused_mbconv/fused_mbconv_cuda.h"
#include "fused_mbconv/fused_mbconv_kernel.cuh"

namespace effkern {
namespace detail {

inline FusedMBConvTiles tiles_of(const FusedMBConvProblem& p, const FusedMBConvPlan& plan) {
  FusedMBConvTiles tiles{};
  tiles.tile_height = plan.tile_height, tiles.tile_width = plan.tile_width;
  tiles.input_height = plan.input_height, tiles.phase = plan.phase;
  tiles.pixel_pitch = plan.pixel_pitch, tiles.row_pitch = plan.row_pitch;
  tiles.zeros = plan.zeros, tiles.stages = plan.stages, tiles.biases = plan.biases;
  tiles.offsets = plan.offsets, tiles.exchange = plan.exchange;
  tiles.slices = int(ceil_div(p.depth(), kFusedMBConvSlice));
  tiles.steps = int(ceil_div(p.depth(), 16));
  tiles.chunks = int(ceil_div(p.hidden, kFusedMBConvChunk));
  tiles.by_tile_width = make_divisor(plan.tile_width);
  tiles.by_input_width = make_divisor(plan.input_width);
  tiles.by_vectors = make_divisor(p.in_channels / 8);
  tiles.by_kernel_w = make_divisor(p.kernel_w);
  tiles.by_stride_w = make_divisor(p.stride_w);
  tiles.by_tile_columns = make_divisor(ceil_div(p.out_width(), plan.tile_width));
  tiles.by_tile_rows = make_divisor(ceil_div(p.out_height(), plan.tile_height));
  return tiles;
}

template <typename T>
FusedMBConvImages<T> images_of(const FusedMBConvProblem& p, const FusedMBConvPointers& from) {
  const auto tensor = [](const void* data) { return static_cast<const T*>(data); };
  FusedMBConvImages<T> images{};
  images.input = tensor(from.input), images.residual = tensor(from.residual);
  images.expand_weight = tensor(from.expand_weight), images.expand_bias = tensor(from.expand_bias);
  images.project_weight = tensor(from.project_weight);
  images.project_bias = tensor(from.project_bias);
  images.project_scale = tensor(from.project_scale);
  images.output = static_cast<T*>(from.output);
  images.height = int(p.height), images.width = int(p.width);
  images.out_height = int(p.out_height()), images.out_width = int(p.out_width());
  images.channels = int(p.in_channels), images.hidden = int(p.hidden);
  images.out_channels = int(p.out_channels), images.depth = int(p.depth());
  images.kernel_w = int(p.kernel_w);
  images.stride_h = int(p.stride_h), images.stride_w = int(p.stride_w);
  images.pad_top = int(p.pad_top), images.pad_left = int(p.pad_left);
  images.activation = p.activation;
  return images;
}

template <typename T, int kOutputs>
cudaError_t launch_fused_mbconv(const FusedMBConvProblem& p, const FusedMBConvPlan& plan,
                                const FusedMBConvPointers& tensors, cudaStream_t stream) {
  constexpr auto* kKernel = &fused_mbconv_kernel<T, kOutputs>;
  const cudaError_t error = allow_shared_memory(kKernel, size_t(plan.shared_memory));
  if (error != cudaSuccess) return error;
  return launch_kernel<kKernel>(dim3(unsigned(plan.grid)), dim3(unsigned(32 * plan.warps)),
                                size_t(plan.shared_memory), stream, images_of<T>(p, tensors),
                                tiles_of(p, plan));
}

}  // namespace detail

// cudaErrorInvalidValue where the plan refuses the problem; nothing is launched then.
template <typename T>
cudaError_t launch_fused_mbconv(const FusedMBConvProblem& p, const FusedMBConvPointers& tensors,
                                cudaStream_t stream) {
  const FusedMBConvPlan plan = plan_fused_mbconv(p);
  if (plan.refusal) return cudaErrorInvalidValue;
  if (!device_has_capability(80)) return cudaErrorNotSupported;
  switch (plan.outputs) {
    case 0:
      return detail::launch_fused_mbconv<T, 0>(p, plan, tensors, stream);
    case 64:
      return detail::launch_fused_mbconv<T, 64>(p, plan, tensors, stream);
    default:
      return detail::launch_fused_mbconv<T, kFusedMBConvMostOutputs>(p, plan, tensors, stream);
  }
}

}  // namespace effkern
