// Which calls of depthwise_conv2d_layer_norm the CUDA kernel takes, its tiles and its shared
// memory.
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_plan.h"

#include <algorithm>

namespace effkern {
namespace {

using Problem = DepthwiseConv2dLayerNormCudaProblem;
using Plan = DepthwiseConv2dLayerNormCudaPlan;

// What every device since sm_80 gives a block that asks for it.
constexpr int64_t kMostSharedMemory = 99 << 10;
// Two blocks of this size are resident, so that one multiplies while the other waits for its sums.
constexpr int64_t kThreads = kLayerNormMostThreads / 2;
// Of a large GPU; as many threads as its registers are for at a time.
constexpr int64_t kMultiprocessors = 132;
// Neighbours that add up by shuffles at least.
constexpr int64_t kFewestLanes = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

int64_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// ChannelsLastShape of depthwise_conv2d_tile.cuh.
int channels_of_a_thread(const Problem& p) {
  return p.dtype != DType::kFloat32 && p.kernel_h <= 3 ? 8 : 4;
}

const char* refusal(const Problem& p) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (p.dtype == DType::kFloat64) return "a dtype other than float32, float16 and bfloat16";
  if (p.kernel_h != p.kernel_w || (p.kernel_h != 3 && p.kernel_h != 5 && p.kernel_h != 7))
    return "a kernel other than 3x3, 5x5 and 7x7";
  if (p.channels % channels_of_a_thread(p))
    return channels_of_a_thread(p) == 8 ? "channels that are no multiple of 8"
                                        : "channels that are no multiple of 4";
  if (std::min({p.pad_top, p.pad_bottom, p.pad_left, p.pad_right}) < 0)
    return "a padding below zero";
  if (std::min({p.batch, p.channels, p.height, p.width, p.out_height(), p.out_width()}) < 1 ||
      std::max({p.batch, p.channels, p.height, p.width, p.out_height(), p.out_width()}) >= kMost ||
      p.out_height() * p.out_width() >= kMost || p.batch * p.out_height() * p.out_width() >= kMost)
    return "an empty tensor or sizes that an int does not hold";
  if (p.channels > kLayerNormMostThreads * channels_of_a_thread(p))
    return "more channels than the threads of a block own";
  return nullptr;
}

// Instructions of a thread, about, for a finished row besides its multiply-adds, and for a row of
// the image that it reads.
constexpr int64_t kRowCost = 300, kStepCost = 200;
// More make no difference to the last wave of an image so large.
constexpr int64_t kMostRowTiles = 256;

// Rows of a tile. Blocks run in waves, of which the last one is half full, and each reads the rows
// of the image that its own and the kernel reach.
void tile_rows(const Problem& p, Plan* plan) {
  const int64_t height = p.out_height(), taps = p.kernel_h * p.kernel_w;
  const int64_t resident = kMultiprocessors * (kLayerNormMostThreads / plan->threads);
  int64_t least = -1;
  for (int64_t tiles = 1; tiles <= std::min(ceil_div(height, 4), kMostRowTiles); ++tiles) {
    const int64_t rows = ceil_div(height, tiles);
    if (ceil_div(height, rows) != tiles) continue;
    const int64_t blocks = ceil_div(p.batch * tiles * plan->strips, plan->slots);
    const int64_t half_waves = 2 * std::max(blocks, resident) / resident + 1;
    const int64_t steps = std::min(p.height, rows + p.kernel_h - 1);
    const int64_t cost =
        half_waves * (rows * (kLayerNormOutputs * taps + kRowCost) + steps * kStepCost);
    if (least >= 0 && cost >= least) continue;
    least = cost;
    plan->rows = int(rows), plan->row_tiles = int(tiles), plan->grid = blocks;
  }
}

}  // namespace

Plan plan_depthwise_conv2d_layer_norm_cuda(const Problem& p) {
  Plan plan;
  plan.refusal = refusal(p);
  if (plan.refusal) return plan;
  plan.channels = channels_of_a_thread(p);
  plan.pixels = kLayerNormOutputs / plan.channels;
  const int64_t lanes = round_up(p.channels / plan.channels, kFewestLanes);
  plan.lanes = int(lanes);
  plan.group = lanes % 32 == 0 ? 32 : lanes % 16 == 0 ? 16 : 8;
  plan.slots = int(std::max<int64_t>(kThreads / lanes, 1));
  plan.threads = int(round_up(plan.slots * lanes, 32));
  // Two sums of each group and pixel.
  plan.weights = int(round_up(8 * plan.slots * (lanes / plan.group) * plan.pixels, 16));
  const int taps = int(p.kernel_h * p.kernel_w);
  const auto shared_memory = [&](int bytes) {
    const int64_t vectors = p.channels / plan.channels;
    return plan.weights + vectors * layer_norm_pitch(taps, plan.channels, bytes);
  };
  plan.shared_memory = shared_memory(4);
  if (plan.shared_memory > kMostSharedMemory && p.dtype != DType::kFloat32 && p.kernel_h == 7) {
    plan.narrow_weights = true;
    plan.shared_memory = shared_memory(2);
  }
  if (plan.shared_memory > kMostSharedMemory) {
    plan = {};
    plan.refusal = "weights that shared memory does not hold";
    return plan;
  }
  plan.strips = int(ceil_div(p.out_width(), plan.pixels));
  tile_rows(p, &plan);
  const int64_t outputs = p.batch * p.out_height() * p.out_width() * p.channels;
  const int64_t inputs = p.batch * p.height * p.width * p.channels;
  plan.bytes = bytes_of(p.dtype) * (inputs + taps * p.channels + outputs);
  plan.flops = 2 * taps * outputs;
  return plan;
}

}  // namespace effkern
