// Which problems the direct CPU kernels take, for the planner.
#pragma once

#include <algorithm>
#include <limits>

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"

namespace effkern {

// Channels that the direct kernels for channels_last images compute at a time; simd_span.h.
inline int64_t span_channels(const DepthwiseConv2dProblem& p, int lanes) {
  return p.dtype == DType::kBFloat16 ? 2 * lanes : lanes;
}

// What the direct kernels have in common.
inline bool fits_direct_kernels(const DepthwiseConv2dProblem& p, CpuIsa isa) {
  // The baseline has them not: it would double the time to compile it. What is not packed would
  // pass through the prologue once for each tap.
  if (isa == CpuIsa::kBaseline || p.has_prologue) return false;
  const bool square = p.kernel_h == p.kernel_w && p.stride_h == p.stride_w;
  const bool known = p.kernel_h == 3 || p.kernel_h == 5 || (p.kernel_h == 7 && p.stride_h == 1);
  // A packed pixel serves the 49 taps of a weight gradient from the L1 cache.
  const bool packed = p.pass == Pass::kGradWeight && p.kernel_h == 7;
  return square && known && !packed && p.stride_h <= 2 && p.dilation_h == 1 && p.dilation_w == 1;
}

inline bool is_strided_gradient(const DepthwiseConv2dProblem& p) {
  return p.pass == Pass::kGradInput && p.stride_h > 1;
}

inline bool fits_direct_channels(const DepthwiseConv2dProblem& p, CpuIsa isa, int lanes) {
  const int64_t out_width = p.pass == Pass::kGradInput ? p.width : p.out_width();
  return fits_direct_kernels(p, isa) && p.layout == Layout::kChannelsLast &&
         p.dtype != DType::kFloat64 && p.multiplier() == 1 &&
         p.in_channels >= span_channels(p, lanes) &&
         (out_width >= kDirectCols || is_strided_gradient(p) || p.pass == Pass::kGradWeight);
}

// Vectors of pixels beat transposing where they are filled well.
inline bool fills_vectors(const DepthwiseConv2dProblem& p, int lanes) {
  const int64_t width = p.pass == Pass::kGradInput ? p.width : p.out_width();
  if (p.pass == Pass::kGradWeight) {
    if (p.kernel_w == 5) return p.stride_h == 1 && width >= 3 * lanes;
    return p.stride_h == 2 ? width > lanes : width >= 2 * lanes;
  }
  if (p.out_channels < lanes || (lanes == 16 && !is_strided_gradient(p))) return true;
  if (p.dtype == DType::kFloat32 || p.stride_h == 2) return p.kernel_w < 7 || width >= 4 * lanes;
  // Rows of 16 bits are converted once per column of the kernel, transposed ones once.
  return width >= (p.kernel_w == 3 ? lanes + 1 : p.kernel_w == 5 ? 3 * lanes : 4 * lanes);
}

inline bool fits_direct_rows(const DepthwiseConv2dProblem& p, CpuIsa isa, int lanes) {
  // Distances are compared as 32-bit integers.
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() / 4;
  if (is_strided_gradient(p) && (p.pad_top % 2 != p.pad_left % 2 || p.width < lanes)) return false;
  return fits_direct_kernels(p, isa) && fills_vectors(p, lanes) &&
         p.layout == Layout::kContiguous && p.dtype != DType::kFloat64 &&
         (p.pass != Pass::kGradInput || p.multiplier() == 1) &&
         std::max({p.width, p.out_width(), p.pad_left, p.pad_right}) < kMax;
}

// Zen 4 computes 64 bytes in two halves: lanes beside the image cost as much as those in it, and
// vectors of 32 bytes leave fewer of them (7, 19 and 56 pixels; not 14, 28 and 112). The forward
// and the input gradient with stride 1 have vectors of 32 bytes of their own.
inline bool fills_narrow_vectors_better(const DepthwiseConv2dProblem& p) {
  if (p.pass != Pass::kGradWeight && !is_strided_gradient(p)) return false;
  if (!fits_direct_rows(p, CpuIsa::kAvx2, 8)) return false;
  const int64_t width = p.pass == Pass::kGradInput ? p.width : p.out_width();
  return !fits_direct_rows(p, CpuIsa::kAvx512, 16) || 2 * ((width + 15) / 16) > (width + 7) / 8;
}

}  // namespace effkern
