// problem -> plan: a pure function, without torch and without a look at the machine.
#include <algorithm>

#include "pointwise/pointwise.h"

namespace effkern {
namespace {

// Pixels that take as long as packing a panel of weights, and how many it is worth; if that was
// done before, how many are worth reading a panel.
constexpr int64_t kPackedPixels = 6;
constexpr int64_t kMinPixels = 96;
constexpr int64_t kMinPackedPixels = 48;
// Of the pixels of a block, which all panels read one after the other: about two thirds of an L2.
constexpr int64_t kBlockBytes = 320 * 1024;
// Units for each thread, so that all are done at about the same time.
constexpr int64_t kUnitsPerThread = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

PointwisePlan plan_pointwise(const PointwiseProblem& p, CpuIsa isa, int threads) {
  PointwisePlan plan;
  plan.merges_images = p.input_channels_last && p.output_channels_last && p.adjacent_images &&
                       !p.has_gate && !p.has_prologue;
  plan.gates_weight = p.has_gate && !p.has_prologue && p.out_channels < p.pixels;
  plan.copies_input = p.dtype != DType::kFloat32 || !p.input_channels_last || p.has_prologue ||
                      (p.has_gate && !plan.gates_weight);
  const int64_t pixels = plan.merges_images ? p.images * p.pixels : p.pixels;
  const int64_t images = plan.merges_images ? 1 : p.images;
  const int64_t panel = isa >= CpuIsa::kAvx512 ? 32 : isa == CpuIsa::kAvx2 ? 16 : 8;
  const int64_t in_cache = kBlockBytes / (4 * std::max<int64_t>(p.in_channels, 1));
  // A block's panels can be shared, too; each is packed once for each block.
  const int64_t panels = ceil_div(p.out_channels, panel);
  const int64_t shared = ceil_div(pixels * images * panels, threads * kUnitsPerThread);
  const int64_t fewest_pixels = p.packed ? kMinPackedPixels : kMinPixels;
  const int64_t wanted = std::max(std::min(in_cache, shared), fewest_pixels);
  // Pixels that the busiest thread computes.
  const auto cost = [&](int64_t blocks) {
    const int64_t units = ceil_div(images * blocks * panels, threads);
    return units * (ceil_div(pixels, blocks) + (p.packed ? 0 : kPackedPixels));
  };
  const int64_t fewest = std::max<int64_t>(pixels / wanted, 1);
  int64_t blocks = fewest;
  for (int64_t more = fewest + 1; more <= std::min(fewest + threads, pixels); ++more) {
    if (cost(more) < cost(blocks)) blocks = more;
  }
  plan.block_pixels = ceil_div(pixels, blocks);
  return plan;
}

}  // namespace effkern
