// problem -> plan: a pure function, without torch and without a look at the machine.
#include <algorithm>

#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm.h"

namespace effkern {
namespace {

// What the rows of a block may take of a 512 KiB L2: widened, and convolved.
constexpr int64_t kBlockBytes = 320 * 1024;
// Enough for the cores of a desktop; fixed, so that plans do not depend on the number of threads.
constexpr int64_t kMinUnits = 16;
// A partial sum takes two numbers per channel, a pixel one: with so many pixels they cost little.
constexpr int64_t kUnitPixels = 64;
// Pixels of a unit of the second pass over contiguous images.
constexpr int64_t kStripPixels = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Even: the kernels compute pairs of rows.
int64_t choose_block_rows(const DepthwiseConv2dProblem& p, bool widens) {
  const int64_t height = p.out_height(), width = p.out_width();
  int64_t rows = ceil_div(kUnitPixels, width), least = 2;
  if (widens) {
    // Each block widens k - 1 rows more than it has: as many rows as fit.
    const int64_t row_bytes = std::max(p.width, width) * p.out_channels * 4;
    rows = (kBlockBytes / row_bytes - (p.kernel_h - 1)) / 2;
    least = 4;
  }
  rows = std::min(rows, ceil_div(p.batch * height, kMinUnits));
  return (std::clamp<int64_t>(rows, std::min(least, height), height) + 1) / 2 * 2;
}

}  // namespace

DepthwiseConv2dLayerNormPlan plan_depthwise_conv2d_layer_norm(const DepthwiseConv2dProblem& problem,
                                                              CpuIsa isa) {
  DepthwiseConv2dLayerNormPlan plan;
  DepthwiseConv2dProblem& p = plan.problem;
  p = problem;
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  if (half) p.dtype = DType::kFloat32;
  DepthwiseConv2dPlan& conv = plan.convolution;
  conv = plan_depthwise_conv2d(p, Backend::kCpu, isa);
  const int64_t pixels = p.out_height() * p.out_width();
  plan.one_pass = conv.kernel == Kernel::kCpuDirectChannels;
  if (conv.kernel == Kernel::kEmpty) return plan;
  if (plan.one_pass) {
    plan.widens = half;
    conv.block_rows = choose_block_rows(p, half);
    conv.channels_innermost = true;
    // One unit has all channels of a block.
    conv.block_channels = static_cast<int>(p.out_channels / conv.lanes * conv.lanes);
    conv.grid = p.batch * ceil_div(p.out_height(), conv.block_rows);
    plan.units = conv.grid;
    plan.unit_pixels = conv.block_rows * p.out_width();
    if (half) {
      plan.scratch_offset = conv.scratch_per_thread / 4;
      const int64_t rows = conv.block_rows + p.kernel_h - 1;
      conv.scratch_per_thread +=
          (rows * p.width + conv.block_rows * p.out_width()) * p.out_channels * 4;
    }
    conv.reason = half ? "one pass: each block of rows is widened, convolved and normalised in the "
                         "cache"
                       : "one pass: each block of rows is normalised while it is in the cache";
  } else {
    plan.unit_pixels = kStripPixels;
    plan.units = p.batch * ceil_div(pixels, kStripPixels);
    conv.reason = half ? "two passes over float32 copies: the direct channels_last kernels do not "
                         "serve this convolution"
                       : "two passes, convolution and LayerNorm: the direct channels_last kernels "
                         "do not serve this convolution";
  }
  conv.bytes = compulsory_bytes(problem);
  return plan;
}

}  // namespace effkern
