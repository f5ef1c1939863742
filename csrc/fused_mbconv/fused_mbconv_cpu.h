// fused_mbconv on CPU: the dense convolution, bias, activation, projection and residual, for a
// block of pixels that stays in the cache. A 3x3 convolution with stride 1 is Winograd's F(2x2,
// 3x3) (Lavin and Gray, arXiv 1509.09308), whose transforms need no multiplication; others are
// products with rows of the pixels that each output meets. No torch, no standard library types.
#pragma once

#include "pointwise/pointwise_cpu.h"

namespace effkern {

struct FusedMBConvTask {
  DType dtype;
  int64_t images, in_channels, hidden, out_channels;
  int64_t height, width, out_height, out_width, pad_top, pad_left;
  int64_t kernel_h, kernel_w, stride_h, stride_w;
  // Elements between images, rows and pixels; channels are adjacent.
  struct Strides {
    int64_t image, row, pixel;
  };
  const void* input;
  Strides input_strides;
  // (hidden, in_channels, kernel_h, kernel_w) without gaps, channels_last.
  const void* weight;
  // Without gaps, or null.
  const void* bias;
  // Rows of `hidden` adjacent elements, or null: no projection, out_channels is `hidden`.
  const void* project_weight;
  int64_t project_stride;
  const void* project_bias;
  // Of the shape of the output, or null.
  const void* residual;
  Strides residual_strides;
  void* output;
  Strides output_strides;
  Activation activation;
  // Tiles of 2 x 2 pixels, or pixels, that are multiplied and projected together.
  int64_t block_tiles;
  // Shared by the threads: the weights, [panels][depth][panel], and those of the projection,
  // [panels][hidden][panel].
  float *transformed, *projection;

  bool winograd() const { return kernel_h == 3 && kernel_w == 3 && stride_h == 1 && stride_w == 1; }
  // Numbers that a product adds up; transformed, of all 16 points.
  int64_t depth() const { return (winograd() ? 16 : kernel_h * kernel_w) * in_channels; }
  int64_t tiles_w() const { return winograd() ? (out_width + 1) / 2 : out_width; }
  int64_t tiles() const { return (winograd() ? (out_height + 1) / 2 : out_height) * tiles_w(); }
};

struct FusedMBConvKernels {
  int panel;
  // Elements of float32 that a thread needs.
  int64_t (*scratch)(const FusedMBConvTask& task);
  // Panels [begin, end), those of the convolution first.
  void (*pack)(const FusedMBConvTask& task, int64_t begin, int64_t end);
  // Blocks of tiles [begin, end), image by image.
  void (*run)(const FusedMBConvTask& task, int64_t begin, int64_t end, float* scratch);
};

const FusedMBConvKernels& fused_mbconv_kernels_baseline();
const FusedMBConvKernels& fused_mbconv_kernels_avx2();
const FusedMBConvKernels& fused_mbconv_kernels_avx512();

// False if scratch memory could not be allocated; `task` has all above block_tiles.
bool fused_mbconv_cpu(FusedMBConvTask task, CpuIsa isa, int threads, Parallel parallel);

}  // namespace effkern
