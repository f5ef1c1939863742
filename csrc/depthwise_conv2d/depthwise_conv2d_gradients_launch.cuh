// Launch of all gradients in one kernel, where it takes the tensors.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_gradients_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_launch.cuh"

namespace effkern {

// As many as a large GPU has at a time: more would only store more sums.
inline constexpr int64_t kGradientsBlocks = 264;
// No more: a long walk down the image has less halo for all three tensors.
inline constexpr int64_t kGradientsThreads = kGradientsBlocks * kDepthwiseThreads;

struct GradientsLaunch {
  ChannelsLastTiles tiles;
  // Of the weight gradient's sums; depends on the problem alone.
  int64_t splits;

  explicit GradientsLaunch(const DepthwiseConv2dProblem& p)
      : tiles(tile_channels_last(p.batch, p.in_channels, p.height, p.width, kGradientsChannels,
                                 kGradientsPixels, kGradientsVectors, kGradientsThreads)) {
    splits = std::min({ceil_div(tiles.items, kDepthwiseThreads / tiles.vectors),
                       ceil_div(kGradientsBlocks, tiles.channel_blocks),
                       std::max<int64_t>(1, kMaxWorkspaceBytes / grad_weight_slab_bytes(p))});
  }
};

// grad_input, grad_weight and, where not null, grad_bias. False if no kernel takes these tensors;
// nothing was launched then. `bytes`: of the workspace. With `dry`, nothing is launched.
template <typename T>
bool launch_gradients(const DepthwiseConv2dProblem& p, const T* input,
                      const Strides4& input_strides, const T* grad_output,
                      const Strides4& grad_output_strides, const T* weight, T* grad_input,
                      const Strides4& grad_input_strides, T* grad_weight, T* grad_bias,
                      void* workspace, int64_t* bytes, bool dry, cudaStream_t stream,
                      cudaError_t* error) {
  const Image4<const T> x{input, p.in_channels, p.height, p.width, input_strides};
  const Image4<const T> dy{grad_output, p.out_channels, p.out_height(), p.out_width(),
                           grad_output_strides};
  const Image4<T> dx{grad_input, p.in_channels, p.height, p.width, grad_input_strides};
  constexpr int kKernel = 3, kChannels = kGradientsChannels;
  if (!has_gradients_cuda_kernel(p) || !x.has_channel_vectors(kChannels) ||
      !dy.has_channel_vectors(kChannels) || !dx.has_channel_vectors(kChannels)) {
    return false;
  }
  const GradientsLaunch launch(p);
  const int64_t splits = launch.splits;
  *bytes = splits * grad_weight_slab_bytes(p);
  if (dry) return true;
  auto* partial = static_cast<float*>(workspace);
  const GradientsImages<T> images{
      describe_weight_grad(p, input, input_strides, grad_output, grad_output_strides, partial,
                           splits, grad_bias != nullptr),
      weight, grad_input, grad_input_strides};
  *error = launch_kernel<depthwise_conv2d_channels_last_gradients_kernel<T, kKernel>>(
      grid_of(splits * launch.tiles.channel_blocks), dim3(kDepthwiseThreads), 0, stream, images,
      launch.tiles);
  if (*error == cudaSuccess) {
    *error = reduce_grad_weight(p, input, input_strides, grad_output, grad_output_strides, partial,
                                splits, grad_weight, grad_bias, stream);
  }
  return true;
}

}  // namespace effkern
