// Which families of CUDA kernels serve a problem; part of the planner.
#include <algorithm>
#include <limits>

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

namespace effkern {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int>::max();

// What is an int in the specialised CUDA kernels, while offsets have 64 bits: coordinates, which
// reach past the image by the padding and a tile; rows, planes and items of 2 x 2 pixels or more of
// all images; blocks. Each factor is bounded before the next multiplies it.
bool fits_int(const DepthwiseConv2dProblem& p) {
  constexpr int64_t kMost = kMaxInt / 2;
  const int64_t height = std::max(p.height, p.out_height()),
                width = std::max(p.width, p.out_width()), channels = p.out_channels;
  return std::max({height, width, p.pad_top, p.pad_left}) < kMaxInt / 8 &&
         std::max(p.batch, channels) <= kMost && p.batch * height <= kMost &&
         p.batch * channels <= kMost && p.batch * (height / 2 + 1) * (width / 2 + 1) <= kMost &&
         p.batch * (height / 4 + 1) * (width / 4 + 1) * channels <= kMaxInt;
}

}  // namespace

bool has_specialized_cuda_kernel(const DepthwiseConv2dProblem& p) {
  const bool square = p.kernel_h == p.kernel_w && p.stride_h == p.stride_w;
  const bool small_kernel = p.kernel_h == 3 || p.kernel_h == 5;
  const bool known = ((small_kernel && p.stride_h <= 2) || (p.kernel_h == 7 && p.stride_h == 1)) &&
                     p.dilation_h == 1 && p.dilation_w == 1 && p.multiplier() == 1 &&
                     p.dtype != DType::kFloat64;
  return square && known && fits_int(p);
}

const char* no_hooked_cuda_kernel(const DepthwiseConv2dProblem& p) {
  if (!has_specialized_cuda_kernel(p)) return "composed: only the direct kernels have hooks";
  // Items of one image fill blocks of up to 128.
  if (p.batch * (p.out_height() / 4 + 128) * (p.out_width() / 2 + 1) > kMaxInt) {
    return "composed: the direct kernels with hooks cannot count so many images";
  }
  if (has_toeplitz_cuda_kernel(p)) {
    return "composed: the tensor-core kernels have no hooks, and are predicted more than three "
           "times as fast as the direct ones";
  }
  if (p.layout == Layout::kChannelsLast && p.kernel_h == 5 && p.stride_h == 2) {
    return "composed: the direct channels_last kernel for 5x5 with stride 2 has no hooks";
  }
  const auto known = [](Activation a) {
    return a != Activation::kGELU && a != Activation::kGELUTanh;
  };
  return known(p.activation) && known(p.input_activation)
             ? nullptr
             : "composed: the direct kernels with hooks have no GELU";
}

bool has_toeplitz_cuda_kernel(const DepthwiseConv2dProblem& p) {
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  // Offsets in a plane, up to 128 rows past it, are ints.
  const int64_t rows = std::max(p.height, p.out_height()) + 128;
  // Up to 9 taps, a product has more zeros than multiply-adds are worth.
  const bool known = p.taps() > 9 && std::max(p.kernel_h, p.kernel_w) <= 57 && p.stride_h == 1 &&
                     p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1 &&
                     p.multiplier() == 1;
  return half && known && fits_int(p) && rows * std::max(p.width, p.out_width()) <= kMaxInt;
}

bool has_weight_grad_mma_kernel(const DepthwiseConv2dProblem& p) {
  // By `benchmarks predict`, sums of taps win on maps of 7 columns; 5x5 also on wide odd rows.
  const bool sums = p.out_width() <= 7 || (p.kernel_w == 5 && p.width % 2 && p.out_width() > 14);
  return has_toeplitz_cuda_kernel(p) && !(sums && has_specialized_cuda_kernel(p));
}

}  // namespace effkern
