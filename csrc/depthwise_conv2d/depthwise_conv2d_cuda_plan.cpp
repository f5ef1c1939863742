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

// What all tensor-core kernels have in common: 16-bit types, stride 1, dilation 1, multiplier 1;
// offsets in a plane, up to 128 rows past it, are ints.
bool fits_products(const DepthwiseConv2dProblem& p) {
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  const int64_t rows = std::max(p.height, p.out_height()) + 128;
  return half && p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1 &&
         p.multiplier() == 1 && fits_int(p) && rows * std::max(p.width, p.out_width()) <= kMaxInt;
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
  if (!has_specialized_cuda_kernel(p)) {
    return "composed: only the direct kernels and tensor-core kernels of 5x5 and 7x7 have hooks";
  }
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  if (half && p.stride_h == 1 && p.kernel_h > 3) {
    // Images further apart are launched one by one, which the sums are not made for.
    const int64_t most = p.batch > 1 ? std::max(p.in_channels * p.height * p.width,
                                                p.out_channels * p.out_height() * p.out_width())
                                     : 0;
    if (!has_toeplitz_cuda_kernel(p) || most > kMaxInt ||
        (p.layout == Layout::kChannelsLast && !channels_last_products(p, false))) {
      return "composed: for 16-bit 5x5 and 7x7, only the tensor-core kernels have hooks";
    }
  } else if (p.batch * (p.out_height() / 4 + 128) * (p.out_width() / 2 + 1) > kMaxInt) {
    // Items of one image fill blocks of up to 128.
    return "composed: the direct kernels with hooks cannot count so many images";
  }
  const auto known = [](Activation a) {
    return a != Activation::kGELU && a != Activation::kGELUTanh;
  };
  return known(p.activation) && known(p.input_activation)
             ? nullptr
             : "composed: the kernels with hooks have no GELU";
}

bool has_gradients_cuda_kernel(const DepthwiseConv2dProblem& p) {
  const bool same = p.pad_top == 1 && p.pad_bottom == 1 && p.pad_left == 1 && p.pad_right == 1;
  return has_specialized_cuda_kernel(p) && p.kernel_h == 3 && p.stride_h == 1 && same &&
         p.input_numel() > 0;
}

bool has_toeplitz_cuda_kernel(const DepthwiseConv2dProblem& p) {
  // Up to 9 taps, a product has more zeros than multiply-adds are worth.
  return p.taps() > 9 && std::max(p.kernel_h, p.kernel_w) <= 57 && fits_products(p);
}

bool has_weight_grad_mma_kernel(const DepthwiseConv2dProblem& p) {
  // By `benchmarks predict`, sums of taps win on maps of 7 columns; 5x5 also on wide odd rows.
  const bool sums = p.out_width() <= 7 || (p.kernel_w == 5 && p.width % 2 && p.out_width() > 14);
  return has_toeplitz_cuda_kernel(p) && !(sums && has_specialized_cuda_kernel(p));
}

bool has_channels_last_weight_grad_mma_kernel(const DepthwiseConv2dProblem& p) {
  return has_specialized_cuda_kernel(p) && fits_products(p) && p.input_numel() > 0 &&
         p.output_numel() > 0;
}

bool copies_for_weight_grad(const DepthwiseConv2dProblem& p) {
  // By `benchmarks predict`, 7x7 at batch 128 takes 0.7 of the time of sums of taps, 5x5 as long as
  // they; more launches do not count then. Other sums take a hundred times as long. Of these two
  // sizes, only tensors that has_channels_last_weight_grad_mma_kernel's does not take come so far.
  constexpr int64_t kLeastPixels = 4 << 20;
  const int64_t pixels = p.input_numel() + p.output_numel();
  const bool large = !has_specialized_cuda_kernel(p) || (p.kernel_h == 7 && pixels >= kLeastPixels);
  return has_weight_grad_mma_kernel(p) && p.input_numel() > 0 && p.output_numel() > 0 && large;
}

const char* channels_last_products(const DepthwiseConv2dProblem& p, bool weight_grad) {
  if (p.layout != Layout::kChannelsLast) return nullptr;
  if (weight_grad && has_channels_last_weight_grad_mma_kernel(p)) {
    if (p.out_channels % 4) return nullptr;
    // By `benchmarks predict`, two thirds of the time of sums of 3x3 taps, a quarter of those of
    // 5x5 and 7x7 and of copies as planes.
    return has_gradients_cuda_kernel(p)
               ? "asked for by name; pairs of pixels on tensor cores: predicted faster than sums "
                 "of taps; with the input gradient, one kernel has both and reads grad_output once"
               : "asked for by name; pairs of pixels on tensor cores, each row read once: "
                 "predicted faster than sums of taps";
  }
  if (p.out_channels % 8) return nullptr;
  if (weight_grad) {
    return copies_for_weight_grad(p)
               ? "asked for by name; images copied as planes for tensor cores: copies and products "
                 "are predicted faster than sums of taps"
               : nullptr;
  }
  // An int holds the offsets of rows of tiles.
  const bool wide = std::max(p.width, p.out_width()) * p.out_channels >= 1 << 21;
  if (wide && has_specialized_cuda_kernel(p)) return nullptr;
  if (wide || p.kernel_h > kMaxTransposedKernelH || p.kernel_w > kMaxTransposedKernelW) {
    return "asked for by name; images copied as planes for tensor cores: copies and products are "
           "predicted faster than multiply-adds";
  }
  if (has_specialized_cuda_kernel(p)) {
    // By `benchmarks predict`, less than a third of the direct kernel's time at batch 32, and as
    // long as it at batch 1, where the launch takes most.
    return "asked for by name; predicted no slower than the direct channels_last kernel";
  }
  return "asked for by name; tiles transposed in shared memory for tensor cores";
}

}  // namespace effkern
