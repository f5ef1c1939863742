// Which calls of fused_mbconv the CUDA kernel takes, its tiles and its shared memory.
#include <algorithm>
#include <limits>

#include "fused_mbconv/fused_mbconv.h"

namespace effkern {
namespace {

// What every device since sm_80 gives a block that asks for it.
constexpr int64_t kMostSharedMemory = 99 << 10;
// Fewer leave multiprocessors of a large GPU idle.
constexpr int64_t kFewestBlocks = 128;
// Time of a warp's pixel over that of copying one of the input, about: a tile that is computed in
// vain costs so many times what its halo does.
constexpr int64_t kPixelCost = 12;
// Elements of a vector of 16 bytes.
constexpr int64_t kVector = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Coordinates, offsets inside an image and counts of blocks are ints in the kernel.
bool fits_int(const FusedMBConvProblem& p) {
  constexpr int64_t kMax = std::numeric_limits<int>::max();
  const int64_t channels = std::max({p.in_channels, p.hidden, p.out_channels});
  const int64_t most = std::max({p.height, p.width, p.out_height(), p.out_width(), p.pad_top,
                                 p.pad_left, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w});
  return most < (1 << 20) && channels < (1 << 20) && p.depth() < kMax / 64 &&
         p.depth() * p.hidden < kMax && p.height * p.width * channels < kMax &&
         p.out_height() * p.out_width() * channels < kMax && p.pixels() < kMax;
}

// Fills in what a tile of so many pixels makes of the plan; false if shared memory does not hold
// it.
bool place(const FusedMBConvProblem& p, int64_t tile_height, int64_t tile_width,
           FusedMBConvPlan* plan) {
  const int64_t input_height = (tile_height - 1) * p.stride_h + p.kernel_h;
  const int64_t input_width = (tile_width - 1) * p.stride_w + p.kernel_w;
  const int64_t phase = ceil_div(input_width, p.stride_w);
  // An odd number of vectors: eight neighbouring pixels lie in different banks. So do those of
  // two rows of the tile where a row ends, if the rows go on as if they were one.
  const int64_t pixel = p.in_channels / kVector | 1, row = phase * p.stride_w * pixel;
  if (input_height * row > kMostSharedMemory) return false;
  int64_t gap = 0;
  while (gap < 8 && ((row + gap) * p.stride_h - tile_width * pixel) % 8 != 0) ++gap;
  plan->tile_height = int(tile_height), plan->tile_width = int(tile_width);
  plan->input_height = int(input_height), plan->input_width = int(input_width);
  plan->phase = int(phase);
  plan->pixel_pitch = int(pixel * kVector);
  plan->row_pitch = int((row + gap % 8) * kVector);

  int64_t place = int64_t(plan->input_height) * plan->row_pitch;
  const auto add = [&](int64_t elements) {
    const int64_t at = place;
    place += ceil_div(elements, kVector) * kVector;
    return int(at);
  };
  plan->zeros = add(kVector);
  plan->stages = add(int64_t(kFusedMBConvStages) * kFusedMBConvChunk * kFusedMBConvSlice);
  const int64_t chunks = ceil_div(p.hidden, kFusedMBConvChunk);
  plan->biases = add(2 * (chunks * kFusedMBConvChunk + plan->outputs));
  plan->offsets = add(2 * ceil_div(p.depth(), kFusedMBConvSlice) * kFusedMBConvSlice / kVector);
  const int64_t exchanged = int64_t(plan->warps) * kFusedMBConvRows * kFusedMBConvExchangePitch * 2;
  if (plan->outputs) {
    // In place of the input, which has been read by then.
    plan->exchange = 0;
    place = std::max(place, exchanged);
  } else {
    plan->exchange = add(exchanged);
  }
  plan->shared_memory = 2 * place;
  return plan->shared_memory <= kMostSharedMemory;
}

// The tile of at most `warps` warps that costs least; false if none fits.
bool tile(const FusedMBConvProblem& p, int warps, FusedMBConvPlan* plan) {
  const int64_t rows = int64_t(warps) * kFusedMBConvRows;
  const int64_t height = p.out_height(), width = p.out_width();
  int64_t least = 0;
  for (int64_t columns = 1; columns <= std::min(width, rows); ++columns) {
    FusedMBConvPlan one = *plan;
    one.warps = warps;
    if (!place(p, std::min(height, rows / columns), columns, &one)) continue;
    one.grid = p.batch * ceil_div(height, one.tile_height) * ceil_div(width, columns);
    const int64_t cost =
        one.grid * (kPixelCost * rows + int64_t(one.input_height) * one.input_width);
    // Of equals the widest: fewer rows of the tile begin inside a row of a product.
    if (least == 0 || cost <= least) least = cost, *plan = one;
  }
  return least > 0;
}

}  // namespace

FusedMBConvPlan plan_fused_mbconv(const FusedMBConvProblem& p) {
  FusedMBConvPlan plan;
  if (p.dtype != DType::kFloat16 && p.dtype != DType::kBFloat16) {
    plan.refusal = "a dtype other than float16 and bfloat16";
  } else if (p.in_channels % kVector || p.hidden % kVector || p.out_channels % kVector) {
    plan.refusal = "channels that are no multiples of 8";
  } else if (p.has_projection && p.out_channels > kFusedMBConvMostOutputs) {
    plan.refusal = "a projection to more than 96 channels";
  } else if (p.batch < 1 || !fits_int(p)) {
    plan.refusal = "an empty tensor or sizes that an int does not hold";
  }
  if (plan.refusal) return plan;
  plan.outputs = !p.has_projection ? 0 : p.out_channels <= 64 ? 64 : kFusedMBConvMostOutputs;
  // Many pixels to a block: each reads all weights. Fewer where shared memory is full or
  // multiprocessors would be idle.
  FusedMBConvPlan found;
  for (int warps = kFusedMBConvMostWarps; warps >= 2; warps /= 2) {
    FusedMBConvPlan one = plan;
    if (!tile(p, warps, &one)) continue;
    found = one;
    if (one.grid >= kFewestBlocks) break;
  }
  if (!found.warps) {
    plan.refusal = "input pixels of a tile that shared memory does not hold";
    return plan;
  }
  const int64_t inputs = p.batch * p.height * p.width * p.in_channels;
  const int64_t projected = p.has_projection ? p.hidden * p.out_channels : 0;
  const int64_t images = p.pixels() * p.out_channels * (p.has_residual ? 2 : 1);
  found.bytes = 2 * (inputs + images + p.hidden * p.depth() + projected);
  found.flops = 2 * p.pixels() * (p.hidden * p.depth() + projected);
  return found;
}

}  // namespace effkern
