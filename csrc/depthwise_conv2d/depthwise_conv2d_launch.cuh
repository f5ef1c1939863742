// From a problem and its tensors to one kernel instantiation, its grid and its shared memory. No
// torch, no device query: the same call is launched in the same way on every device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/dtype.cuh"
#include "depthwise_conv2d/depthwise_conv2d_direct_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_grad_input_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_planes_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_strided_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tiling.cuh"
#include "depthwise_conv2d/depthwise_conv2d_transpose_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_mma_channels_last_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_mma_launch.cuh"
#include "depthwise_conv2d/depthwise_conv2d_wgrad_planes_launch.cuh"

namespace effkern {

inline constexpr int64_t kTargetBlocks = 1 << 10;
// What a large GPU has of the direct channels_last kernels at a time, 12 warps on each SM: with
// more threads each would walk less far.
inline constexpr int64_t kTargetDirectThreads = 384 * kDepthwiseThreads;
// Three on each SM of a large GPU.
inline constexpr int64_t kTargetPlaneSumBlocks = 396;
inline constexpr int64_t kMaxWorkspaceBytes = 16 << 20;

// Other epilogues and float64 go through the strided kernel.
template <typename T, typename Epilogue>
inline constexpr bool has_specialized_kernels =
    !std::is_same_v<T, double> && std::is_same_v<Epilogue, BiasActivation<T>>;

namespace detail {

template <int kKernel, int kStride, typename Function>
cudaError_t call_with(Function& function) {
  return function(std::integral_constant<int, kKernel>(), std::integral_constant<int, kStride>());
}

// Calls function(kernel size, stride) with the sizes of has_specialized_cuda_kernel as constants.
template <typename Function>
cudaError_t with_kernel_and_stride(int64_t kernel_size, int64_t stride, Function function) {
  if (kernel_size == 7) return call_with<7, 1>(function);
  if (kernel_size == 5) return stride == 1 ? call_with<5, 1>(function) : call_with<5, 2>(function);
  return stride == 1 ? call_with<3, 1>(function) : call_with<3, 2>(function);
}

// Both tensors can be read and written in the vectors of the channels_last kernels.
template <typename T, typename U>
bool has_channel_vectors(int64_t kernel_size, const Image4<T>& a, const Image4<U>& b) {
  const int64_t elements =
      kernel_size <= 3 ? ChannelsLastShape<T, 3>::kChannels : ChannelsLastShape<T, 7>::kChannels;
  return a.has_channel_vectors(elements) && b.has_channel_vectors(elements);
}

template <typename T>
DepthwiseImages<T> describe_images(int64_t batch, const Image4<const T>& input, const T* weight,
                                   const Image4<T>& output, int64_t pad_top, int64_t pad_left,
                                   bool flip_taps) {
  return {input.data,          weight,
          output.data,         input.strides,
          output.strides,      int(batch),
          int(input.channels), int(input.height),
          int(input.width),    int(output.height),
          int(output.width),   int(pad_top),
          int(pad_left),       flip_taps};
}

// The stride-1 and stride-2 forward kernels, which also give the input gradient of stride 1.
template <typename T, typename Epilogue>
cudaError_t launch_direct(const DepthwiseImages<T>& images, int64_t kernel_size, int64_t stride,
                          bool channels_last, const Image4<const T>& from, const Image4<T>& to,
                          const Epilogue& epilogue, cudaStream_t stream) {
  return with_kernel_and_stride(kernel_size, stride, [&](auto k, auto s) {
    constexpr int kKernel = decltype(k)::value, kStride = decltype(s)::value;
    if (channels_last) {
      using Shape = ChannelsLastShape<T, kKernel>;
      constexpr int kPixels = Shape::kOutputs / Shape::kChannels;
      const auto tiles = tile_channels_last(
          images.batch, images.channels, images.out_height, images.out_width, Shape::kChannels,
          kPixels,
          choose_channel_vectors(images.channels / Shape::kChannels,
                                 Shape::kChannels * int64_t(sizeof(T)),
                                 ceil_div(images.out_width, kPixels), kPixels * kStride,
                                 kKernel - kStride, Shape::kMaxVectors),
          kTargetDirectThreads);
      return launch_kernel<depthwise_conv2d_channels_last_kernel<T, kKernel, kStride, Epilogue>>(
          grid_of(blocks_of(tiles)), dim3(kDepthwiseThreads), 0, stream, images, tiles, epilogue);
    }
    return launch_planes<kKernel, kStride>(images, from, to, epilogue, stream);
  });
}

template <typename Index>
StridedShape<Index> describe_strided(const DepthwiseConv2dProblem& p, const Strides4& input,
                                     const Strides4& output) {
  return {Index(p.batch),
          Index(p.in_channels),
          Index(p.height),
          Index(p.width),
          Index(p.out_channels),
          Index(p.out_height()),
          Index(p.out_width()),
          Index(p.kernel_h),
          Index(p.kernel_w),
          Index(p.stride_h),
          Index(p.stride_w),
          Index(p.pad_top),
          Index(p.pad_left),
          Index(p.dilation_h),
          Index(p.dilation_w),
          Index(p.multiplier()),
          input,
          output,
          output.c == 1 && input.c == 1};
}

template <typename T>
cudaError_t launch_specialized_grad_weight(const WeightGradImages<T>& images,
                                           const DepthwiseConv2dProblem& p, bool channels_last,
                                           PlaneShape shape, const Image4<const T>& x,
                                           const Image4<const T>& dy, cudaStream_t stream) {
  return with_kernel_and_stride(p.kernel_h, p.stride_h, [&](auto k, auto s) {
    constexpr int kKernel = decltype(k)::value, kStride = decltype(s)::value;
    if (channels_last) {
      // 64 bytes or more of neighbouring channels, and as many strips at a time as there are
      // threads.
      const int64_t all = images.channels / ChannelsLastShape<T, kKernel>::kChannels;
      const int blocks = int(ceil_div(all, 8)), vectors = int(ceil_div(all, blocks));
      return launch_kernel(depthwise_conv2d_channels_last_wgrad_kernel<T, kKernel, kStride>,
                           grid_of(int64_t(blocks) * images.splits), dim3(kWeightGradThreads), 0,
                           stream, images, vectors, blocks);
    }
    return launch_weight_grad_planes<T, kKernel, kStride>(images, shape, x, dy, stream);
  });
}

// Blocks that take all channels of dense planes once.
inline int64_t weight_grad_plane_blocks(const DepthwiseConv2dProblem& p) {
  int64_t blocks = p.out_channels;
  if (!has_specialized_cuda_kernel(p)) return blocks;
  with_dtype(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, double>) {
      with_kernel_and_stride(p.kernel_h, p.stride_h, [&](auto k, auto s) {
        blocks = dense_plane_blocks<T, decltype(k)::value, decltype(s)::value>(p);
        return cudaSuccess;
      });
    }
    return cudaSuccess;
  });
  return blocks;
}

// Calls function(Index()) with int where every count, coordinate and offset of the problem fits
// one.
template <typename T, typename Function>
cudaError_t with_index(const DepthwiseConv2dProblem& p, const Strides4& input,
                       const Strides4& output, Function function) {
  if constexpr (!std::is_same_v<T, double>) {
    const auto extent = [&](const Strides4& s, int64_t channels, int64_t height, int64_t width) {
      return p.batch * s.n + channels * s.c + height * s.h + width * s.w;
    };
    const int64_t largest =
        std::max({extent(input, p.in_channels, p.height, p.width),
                  extent(output, p.out_channels, p.out_height(), p.out_width()), p.input_numel(),
                  p.output_numel(), p.out_channels * (p.taps() + 1),
                  p.height + p.pad_top + p.pad_bottom + p.dilation_h,
                  p.width + p.pad_left + p.pad_right + p.dilation_w});
    if (largest <= kMaxInt / 2) return function(int());
  }
  return function(int64_t());
}

}  // namespace detail

// output = epilogue(convolution(input, weight)). weight is [out_channels][kernel_h][kernel_w].
template <typename T, typename Epilogue>
cudaError_t launch_forward(const DepthwiseConv2dProblem& p, const T* input,
                           const Strides4& input_strides, const T* weight, T* output,
                           const Strides4& output_strides, const Epilogue& epilogue,
                           void* workspace, cudaStream_t stream) {
  if (p.output_numel() == 0) return cudaSuccess;
  if (detail::takes_single_images<T, Epilogue>(p, input_strides, output_strides)) {
    return detail::for_each_image(p, [&](const DepthwiseConv2dProblem& one, int64_t n) {
      return launch_forward(one, input + n * input_strides.n, input_strides, weight,
                            output + n * output_strides.n, output_strides, epilogue, workspace,
                            stream);
    });
  }
  if constexpr (has_specialized_kernels<T, Epilogue>) {
    const Image4<const T> from{input, p.in_channels, p.height, p.width, input_strides};
    const Image4<T> to{output, p.out_channels, p.out_height(), p.out_width(), output_strides};
    if constexpr (has_toeplitz_kernels<T, Epilogue>) {
      cudaError_t error;
      if (has_toeplitz_cuda_kernel(p) &&
          detail::launch_toeplitz_or_copies(
              detail::describe_images(p.batch, from, weight, to, p.pad_top, p.pad_left, false),
              int(p.kernel_h), int(p.kernel_w), from, to, epilogue, workspace, stream, &error)) {
        return error;
      }
    }
    const bool channels_last = detail::has_channel_vectors(p.kernel_h, from, to);
    const auto images =
        detail::describe_images(p.batch, from, weight, to, p.pad_top, p.pad_left, false);
    if (has_specialized_cuda_kernel(p) &&
        (channels_last || detail::choose_plane_shape(images, from, to, p.kernel_h, p.stride_h) !=
                              detail::PlaneShape::kNone)) {
      return detail::launch_direct(images, p.kernel_h, p.stride_h, channels_last, from, to,
                                   epilogue, stream);
    }
  }
  return detail::with_index<T>(p, input_strides, output_strides, [&](auto index) {
    using Index = decltype(index);
    const auto shape = detail::describe_strided<Index>(p, input_strides, output_strides);
    const int64_t count = p.output_numel();
    return launch_kernel<depthwise_conv2d_strided_kernel<T, Index, Epilogue>>(
        grid_of(ceil_div(count, kStridedThreads)), dim3(kStridedThreads), 0, stream, input, weight,
        output, shape, Index(count), epilogue);
  });
}

// grad_input from grad_output and weight.
template <typename T>
cudaError_t launch_grad_input(const DepthwiseConv2dProblem& p, const T* grad_output,
                              const Strides4& grad_output_strides, const T* weight, T* grad_input,
                              const Strides4& grad_input_strides, void* workspace,
                              cudaStream_t stream) {
  if (p.input_numel() == 0) return cudaSuccess;
  using Epilogue = BiasActivation<T>;
  if (detail::takes_single_images<T, Epilogue>(p, grad_output_strides, grad_input_strides)) {
    return detail::for_each_image(p, [&](const DepthwiseConv2dProblem& one, int64_t n) {
      return launch_grad_input(one, grad_output + n * grad_output_strides.n, grad_output_strides,
                               weight, grad_input + n * grad_input_strides.n, grad_input_strides,
                               workspace, stream);
    });
  }
  if constexpr (has_specialized_kernels<T, Epilogue>) {
    const Image4<const T> from{grad_output, p.out_channels, p.out_height(), p.out_width(),
                               grad_output_strides};
    const Image4<T> to{grad_input, p.in_channels, p.height, p.width, grad_input_strides};
    if constexpr (has_toeplitz_kernels<T, Epilogue>) {
      cudaError_t error;
      if (has_toeplitz_cuda_kernel(p) &&
          detail::launch_toeplitz_or_copies(
              detail::describe_images(p.batch, from, weight, to, p.kernel_h - 1 - p.pad_top,
                                      p.kernel_w - 1 - p.pad_left, true),
              int(p.kernel_h), int(p.kernel_w), from, to, Epilogue{nullptr, Activation::kNone},
              workspace, stream, &error)) {
        return error;
      }
    }
    const bool channels_last = detail::has_channel_vectors(p.kernel_h, from, to);
    const auto flipped = detail::describe_images(
        p.batch, from, weight, to, p.kernel_h - 1 - p.pad_top, p.kernel_w - 1 - p.pad_left, true);
    if (has_specialized_cuda_kernel(p) && p.stride_h == 1 &&
        (channels_last || detail::choose_plane_shape(flipped, from, to, p.kernel_h, 1) !=
                              detail::PlaneShape::kNone)) {
      return detail::launch_direct(flipped, p.kernel_h, 1, channels_last, from, to,
                                   Epilogue{nullptr, Activation::kNone}, stream);
    }
    if (has_specialized_cuda_kernel(p) && p.stride_h == 2 &&
        (channels_last || (grad_output_strides.w == 1 && grad_input_strides.w == 1))) {
      const auto images =
          detail::describe_images(p.batch, from, weight, to, p.pad_top, p.pad_left, false);
      return detail::launch_grad_input_stride2(images, p.kernel_h, channels_last, from, to, stream);
    }
  }
  return detail::with_index<T>(p, grad_input_strides, grad_output_strides, [&](auto index) {
    using Index = decltype(index);
    const auto shape = detail::describe_strided<Index>(p, grad_input_strides, grad_output_strides);
    const int64_t count = p.input_numel();
    return launch_kernel(depthwise_conv2d_strided_grad_input_kernel<T, Index>,
                         grid_of(ceil_div(count, kStridedThreads)), dim3(kStridedThreads), 0,
                         stream, grad_output, weight, grad_input, shape, Index(count));
  });
}

// Bytes of partial sums of one split.
inline int64_t grad_weight_slab_bytes(const DepthwiseConv2dProblem& p) {
  return p.out_channels * (p.taps() + 1) * (p.dtype == DType::kFloat64 ? 8 : 4);
}

// Slabs of partial sums of grad_weight; depends on the problem alone. They cost at most 5 % of the
// traffic of input and grad_output, and kMaxWorkspaceBytes.
inline int64_t grad_weight_splits(const DepthwiseConv2dProblem& p) {
  const int64_t slab = std::max<int64_t>(1, grad_weight_slab_bytes(p));
  const int64_t cheap = p.batch * p.height * p.width / std::max<int64_t>(1, 40 * p.taps());
  // Blocks over planes are all resident at a time, and keep their sums in registers for long.
  int64_t wanted = 1;
  if (p.layout == Layout::kChannelsLast && has_channels_last_weight_grad_mma_kernel(p)) {
    wanted = wanted_cell_splits(p);
  } else if (p.layout == Layout::kChannelsLast) {
    wanted = ceil_div(kTargetBlocks, std::max<int64_t>(1, ceil_div(p.out_channels, 32)));
  } else if (has_weight_grad_mma_kernel(p)) {
    const int64_t blocks = weight_grad_mma_group_blocks(
        p.kernel_w, weight_grad_mma_input_tiles(p.height, p.out_height(), p.kernel_h, p.pad_top));
    wanted = kTargetPlaneSumBlocks / std::max<int64_t>(1, p.out_channels * blocks);
  } else {
    wanted = kTargetPlaneSumBlocks / std::max<int64_t>(1, detail::weight_grad_plane_blocks(p));
  }
  return std::max<int64_t>(1, std::min({cheap, kMaxWorkspaceBytes / slab, wanted}));
}

inline int64_t grad_weight_slabs_bytes(const DepthwiseConv2dProblem& p) {
  return grad_weight_splits(p) * grad_weight_slab_bytes(p);
}

// Of launch_grad_weight's workspace.
template <typename T>
int64_t grad_weight_workspace_bytes(const DepthwiseConv2dProblem& p, const Image4<const T>& x,
                                    const Image4<const T>& dy) {
  const detail::PlaneCopies copies = detail::choose_weight_grad_copies(p, x, dy);
  if (!copies) return grad_weight_slabs_bytes(p);
  const int64_t part = detail::choose_plane_channels(copies, p.batch, p.in_channels);
  const int64_t last = (p.in_channels - 1) % part + 1;
  return copies.bytes * p.batch * part +
         std::max(grad_weight_slabs_bytes(detail::problem_of_planes(p, part)),
                  grad_weight_slabs_bytes(detail::problem_of_planes(p, last)));
}

// `bias` is 1 where the bias gradient is wanted, else 0.
template <typename T>
WeightGradImages<T> describe_weight_grad(const DepthwiseConv2dProblem& p, const T* input,
                                         const Strides4& input_strides, const T* grad_output,
                                         const Strides4& grad_output_strides,
                                         Accumulate<T>* partial, int64_t splits, int bias) {
  return {input,
          grad_output,
          partial,
          input_strides,
          grad_output_strides,
          int(p.batch),
          int(p.in_channels),
          int(p.height),
          int(p.width),
          int(p.out_height()),
          int(p.out_width()),
          int(p.pad_top),
          int(p.pad_left),
          int(splits),
          bias};
}

// Adds the partial sums of all splits.
template <typename T>
cudaError_t reduce_grad_weight(const DepthwiseConv2dProblem& p, const T* input,
                               const Strides4& input_strides, const T* grad_output,
                               const Strides4& grad_output_strides, const Accumulate<T>* partial,
                               int64_t splits, T* grad_weight, T* grad_bias, cudaStream_t stream) {
  const int64_t columns = p.taps() + (grad_bias != nullptr), count = p.out_channels * columns;
  // Few sums have many splits, which one thread would read one after the other.
  const int rows = splits >= kReduceWarps ? kReduceWarps : 1;
  return launch_kernel(depthwise_conv2d_wgrad_reduce_kernel<T>,
                       grid_of(ceil_div(count, 32 * kReduceWarps / rows)), dim3(32 * kReduceWarps),
                       0, stream, partial, grad_weight, grad_bias, int(splits), rows, columns,
                       input, grad_output,
                       detail::describe_strided<int64_t>(p, input_strides, grad_output_strides));
}

// grad_weight and, where not null, grad_bias.
template <typename T>
cudaError_t launch_grad_weight(const DepthwiseConv2dProblem& p, const T* input,
                               const Strides4& input_strides, const T* grad_output,
                               const Strides4& grad_output_strides, T* grad_weight, T* grad_bias,
                               void* workspace, cudaStream_t stream) {
  const int bias = grad_bias != nullptr;
  const int64_t columns = p.taps() + bias, count = p.out_channels * columns;
  const int64_t splits = grad_weight_splits(p);
  if (count == 0) return cudaSuccess;
  auto* partial = static_cast<Accumulate<T>*>(workspace);
  cudaError_t error = cudaSuccess;
  bool launched = false;
  if constexpr (!std::is_same_v<T, double>) {
    const Image4<const T> x{input, p.in_channels, p.height, p.width, input_strides};
    const Image4<const T> dy{grad_output, p.out_channels, p.out_height(), p.out_width(),
                             grad_output_strides};
    if constexpr (sizeof(T) == 2) {
      if (const auto copies = detail::choose_weight_grad_copies(p, x, dy)) {
        return detail::with_plane_channels(
            copies, p.batch, x, dy, workspace, stream,
            [&](const auto& input, const auto& grad, int64_t first, void* rest) {
              return launch_grad_weight(detail::problem_of_planes(p, input.channels), input.data,
                                        input.strides, grad.data, grad.strides,
                                        grad_weight + first * p.taps(),
                                        bias ? grad_bias + first : nullptr, rest, stream);
            });
      }
    }
    const WeightGradImages<T> images = describe_weight_grad(
        p, input, input_strides, grad_output, grad_output_strides, partial, splits, bias);
    const bool channels_last = detail::has_channel_vectors(p.kernel_h, x, dy);
    const auto shape = detail::choose_weight_grad_shape(p, x, dy);
    if constexpr (sizeof(T) == 2) {
      if (detail::takes_weight_grad_cells(p, x, dy)) {
        error = detail::launch_weight_grad_cells(images, p, stream);
        launched = true;
      } else {
        launched = !channels_last &&
                   (has_weight_grad_mma_kernel(p) || shape == detail::PlaneShape::kNone) &&
                   detail::launch_weight_grad_mma(images, p, x, dy, stream, &error);
      }
    }
    if (!launched && has_specialized_cuda_kernel(p) &&
        (channels_last || shape != detail::PlaneShape::kNone)) {
      error =
          detail::launch_specialized_grad_weight(images, p, channels_last, shape, x, dy, stream);
      launched = true;
    }
  }
  if (!launched) {
    error = detail::with_index<T>(p, input_strides, grad_output_strides, [&](auto index) {
      using Index = decltype(index);
      const auto shape = detail::describe_strided<Index>(p, input_strides, grad_output_strides);
      return launch_kernel(depthwise_conv2d_strided_wgrad_kernel<T, Index>,
                           grid_of(ceil_div(count, kStridedThreads), splits), dim3(kStridedThreads),
                           0, stream, input, grad_output, partial, shape, bias);
    });
  }
  if (error != cudaSuccess) return error;
  return reduce_grad_weight(p, input, input_strides, grad_output, grad_output_strides, partial,
                            splits, grad_weight, grad_bias, stream);
}

}  // namespace effkern
