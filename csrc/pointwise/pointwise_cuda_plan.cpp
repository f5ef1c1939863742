// Which calls of pointwise the CUDA kernel takes, its tiles and its shared memory.
#include "pointwise/pointwise_cuda_plan.h"

#include <algorithm>
#include <limits>

namespace effkern {
namespace {

// Fewer leave multiprocessors of a large GPU idle. Lower in the emulator's runners.
#ifndef EFFKERN_POINTWISE_BLOCKS
#define EFFKERN_POINTWISE_BLOCKS 128
#endif
constexpr int64_t kFewestBlocks = EFFKERN_POINTWISE_BLOCKS;
// What every device since sm_80 gives a block that asks for it.
constexpr int64_t kMostSharedMemory = 99 << 10;
// Input channels whose products take so long that a multiprocessor may have one block alone.
constexpr int64_t kLongSums = 256;
// Elements of a vector of 16 bytes.
constexpr int64_t kVector = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Numbers of pixels, channels and blocks are ints in the kernel.
bool fits_int(const PointwiseCudaProblem& p) {
  constexpr int64_t kMost = int64_t{1} << 30, kMostChannels = 1 << 20;
  return std::max(p.images, p.pixels) < kMost &&
         std::max(p.in_channels, p.out_channels) < kMostChannels &&
         p.images * p.pixels < kMost / std::max<int64_t>(p.out_channels / 64, 1);
}

const char* refusal(const PointwiseCudaProblem& p) {
  if (p.dtype != DType::kFloat16 && p.dtype != DType::kBFloat16)
    return "a dtype other than float16 and bfloat16";
  if (p.in_channels % kVector || p.out_channels % kVector)
    return "channels that are no multiples of 8";
  if (p.has_gate && p.activation != Activation::kNone) return "an activation of gated channels";
  if (std::min({p.images, p.pixels, p.in_channels, p.out_channels}) < 1 || !fits_int(p))
    return "an empty tensor or sizes that an int does not hold";
  return nullptr;
}

PointwiseCudaPlan tile(const PointwiseCudaProblem& p, int warps, int channels) {
  PointwiseCudaPlan plan;
  plan.warps = warps;
  plan.tile_pixels = 32 * warps, plan.tile_channels = channels;
  if (p.has_gate) {
    const int64_t most = (plan.tile_pixels - 2) / p.pixels + 2;
    plan.gate_rows = int(std::min(most, p.images));
  }
  plan.grid = ceil_div(p.images * p.pixels, plan.tile_pixels) * ceil_div(p.out_channels, channels);
  const int64_t rows = plan.tile_pixels + channels + plan.gate_rows;
  const int64_t staged = 2 * kPointwiseStages * kPointwiseSlice * rows;
  // In place of the stages, 32 pixels of each warp.
  const int64_t sums = 4 * 32 * int64_t(warps) * kPointwiseSumsPitch;
  plan.shared_memory = std::max(staged, sums);
  return plan;
}

}  // namespace

PointwiseCudaPlan plan_pointwise_cuda(const PointwiseCudaProblem& p) {
  PointwiseCudaPlan plan;
  plan.refusal = refusal(p);
  if (plan.refusal) return plan;
  const int most = p.out_channels <= 64 ? 64 : 128;
  // 256 pixels halve what is read of the weights, which comes from L2 for each block.
  if (most == 128 && p.in_channels >= kLongSums) plan = tile(p, kPointwiseMostWarps, most);
  if (plan.grid < 2 * kFewestBlocks || plan.shared_memory > kMostSharedMemory) plan = {};
  // Smaller tiles where multiprocessors would be idle.
  for (int channels = most; channels >= 64; channels /= 2) {
    for (int warps = 4; warps >= 2; warps /= 2) {
      if (plan.grid < kFewestBlocks) plan = tile(p, warps, channels);
    }
  }
  const int64_t pixels = p.images * p.pixels;
  const int64_t outputs = pixels * p.out_channels * (p.has_residual ? 2 : 1);
  const int64_t gates = p.has_gate ? p.images * p.in_channels : 0;
  plan.bytes = 2 * (pixels * p.in_channels + p.in_channels * p.out_channels + gates + outputs);
  plan.flops = 2 * pixels * p.in_channels * p.out_channels;
  return plan;
}

}  // namespace effkern
