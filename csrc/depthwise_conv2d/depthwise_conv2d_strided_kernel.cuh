// Direct convolution and its input gradient for everything the specialised kernels leave: any
// strides, kernel, stride, dilation, padding and depth multiplier, float64. One thread per result.
// Index is int where every offset and count fits, int64_t elsewhere.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"

namespace effkern {

inline constexpr int kStridedThreads = 256;

template <typename Index>
struct StridedShape {
  Index batch, in_channels, height, width, out_channels, out_height, out_width;
  Index kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  Index multiplier;
  Strides4 input_strides, output_strides;
  // Neighbouring threads take neighbouring channels, or neighbouring columns.
  bool channels_innermost;
};

template <typename Index>
struct Coordinates {
  Index n, c, y, x;

  __device__ __forceinline__ Coordinates(Index index, Index channels, Index height, Index width,
                                         bool channels_innermost) {
    if (channels_innermost) {
      c = index % channels, index /= channels;
      x = index % width, index /= width;
      y = index % height, n = index / height;
    } else {
      x = index % width, index /= width;
      y = index % height, index /= height;
      c = index % channels, n = index / channels;
    }
  }
};

template <typename Index>
__device__ __forceinline__ Index offset(const Strides4& strides, Index n, Index c, Index y,
                                        Index x) {
  return n * Index(strides.n) + c * Index(strides.c) + y * Index(strides.h) + x * Index(strides.w);
}

template <typename T, typename Index, typename Epilogue>
__global__ void __launch_bounds__(kStridedThreads)
    depthwise_conv2d_strided_kernel(const T* __restrict__ input, const T* __restrict__ weight,
                                    T* __restrict__ output, StridedShape<Index> s, Index count,
                                    Epilogue epilogue) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= count) return;
  const Coordinates<Index> at(Index(thread), s.out_channels, s.out_height, s.out_width,
                              s.channels_innermost);
  const Index y0 = at.y * s.stride_h - s.pad_top, x0 = at.x * s.stride_w - s.pad_left;
  const T* taps = weight + at.c * s.kernel_h * s.kernel_w;
  const T* image = input + at.n * s.input_strides.n + at.c / s.multiplier * s.input_strides.c;
  Accumulate<T> sum[1] = {epilogue.initial(at.c)};
  for (Index ky = 0; ky < s.kernel_h; ++ky) {
    const Index y = y0 + ky * s.dilation_h;
    if (y < 0 || y >= s.height) continue;
    const T* row = image + y * Index(s.input_strides.h);
    for (Index kx = 0; kx < s.kernel_w; ++kx) {
      const Index x = x0 + kx * s.dilation_w;
      if (x < 0 || x >= s.width) continue;
      sum[0] += load_scalar(row + x * Index(s.input_strides.w)) *
                load_scalar(taps + ky * s.kernel_w + kx);
    }
  }
  epilogue.template finish<TileOrder::kRowsColumns, 1, 1>(sum, {at.n, at.c, at.y, at.x, 1, 1});
  store_scalar(output + offset(s.output_strides, at.n, at.c, at.y, at.x), sum[0]);
}

// grad_input[n, c, y, x] = sum over taps and output channels of grad_output * weight, where the
// output pixel that meets (y, x) at tap (ky, kx) exists.
template <typename T, typename Index>
__global__ void __launch_bounds__(kStridedThreads)
    depthwise_conv2d_strided_grad_input_kernel(const T* __restrict__ grad_output,
                                               const T* __restrict__ weight,
                                               T* __restrict__ grad_input, StridedShape<Index> s,
                                               Index count) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= count) return;
  const Coordinates<Index> at(Index(thread), s.in_channels, s.height, s.width,
                              s.channels_innermost);
  Accumulate<T> sum = 0;
  for (Index m = 0; m < s.multiplier; ++m) {
    const Index c = at.c * s.multiplier + m;
    const T* taps = weight + c * s.kernel_h * s.kernel_w;
    const T* image = grad_output + at.n * s.output_strides.n + c * s.output_strides.c;
    for (Index ky = 0; ky < s.kernel_h; ++ky) {
      const Index above = at.y + s.pad_top - ky * s.dilation_h;
      if (above < 0) break;
      const Index y = above / s.stride_h;
      if (y * s.stride_h != above || y >= s.out_height) continue;
      const T* row = image + y * Index(s.output_strides.h);
      for (Index kx = 0; kx < s.kernel_w; ++kx) {
        const Index before = at.x + s.pad_left - kx * s.dilation_w;
        if (before < 0) break;
        const Index x = before / s.stride_w;
        if (x * s.stride_w != before || x >= s.out_width) continue;
        sum += load_scalar(row + x * Index(s.output_strides.w)) *
               load_scalar(taps + ky * s.kernel_w + kx);
      }
    }
  }
  store_scalar(grad_input + offset(s.input_strides, at.n, at.c, at.y, at.x), sum);
}

}  // namespace effkern
