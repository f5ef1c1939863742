// CPU driver: blocks, scratch, threads.
#include "fused_mbconv/fused_mbconv_cpu.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace effkern {
namespace {

// Of the pixels of a block as they are multiplied, which all panels read: half of an L2.
constexpr int64_t kBlockBytes = 256 * 1024;
// Tiles of a block at least: those of 4 pixels, and pixels, in multiples of what registers hold.
constexpr int64_t kMinTiles = 24;
constexpr int64_t kMinPixels = 96;
constexpr int64_t kTileMultiple = 12;

const FusedMBConvKernels& fused_mbconv_kernels(CpuIsa isa) {
#if defined(EFFKERN_X86)
  if (isa >= CpuIsa::kAvx512) return fused_mbconv_kernels_avx512();
  if (isa == CpuIsa::kAvx2) return fused_mbconv_kernels_avx2();
#endif
  (void)isa;
  return fused_mbconv_kernels_baseline();
}

float* allocate(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  return static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
}

struct Context {
  const FusedMBConvTask* task;
  const FusedMBConvKernels* kernels;
  std::atomic<bool> failed{false};
};

void pack_panels(int64_t begin, int64_t end, void* context) {
  const Context& c = *static_cast<const Context*>(context);
  c.kernels->pack(*c.task, begin, end);
}

void run_blocks(int64_t begin, int64_t end, void* context) {
  Context& c = *static_cast<Context*>(context);
  float* scratch = allocate(c.kernels->scratch(*c.task));
  if (!scratch) {
    c.failed = true;
    return;
  }
  c.kernels->run(*c.task, begin, end, scratch);
  std::free(scratch);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of a few numbers of blocks, the one whose busiest thread has least to do.
int64_t block_tiles(const FusedMBConvTask& task, int64_t threads) {
  const int64_t in_cache = kBlockBytes / (4 * std::max<int64_t>(task.depth(), 1));
  // Four blocks for each thread, so that all are done at about the same time.
  const int64_t shared = ceil_div(task.images * task.tiles(), threads * 4);
  const int64_t wanted =
      std::max(std::min(in_cache, shared), task.winograd() ? kMinTiles : kMinPixels);
  const int64_t fewest = std::max<int64_t>(task.tiles() / wanted, 1);
  int64_t best = 0, least = 0;
  for (int64_t blocks = fewest; blocks <= fewest + 2 * threads; ++blocks) {
    const int64_t size = ceil_div(ceil_div(task.tiles(), blocks), kTileMultiple) * kTileMultiple;
    const int64_t all = task.images * ceil_div(task.tiles(), size);
    const int64_t most = ceil_div(all, threads) * size;
    if (best == 0 || most < least) best = size, least = most;
  }
  return best;
}

}  // namespace

bool fused_mbconv_cpu(FusedMBConvTask task, CpuIsa isa, int threads, Parallel parallel) {
  const FusedMBConvKernels& kernels = fused_mbconv_kernels(isa);
  task.block_tiles = block_tiles(task, threads);
  const int64_t hidden_panels = ceil_div(task.hidden, kernels.panel);
  const int64_t out_panels = task.project_weight ? ceil_div(task.out_channels, kernels.panel) : 0;
  task.transformed = allocate(hidden_panels * kernels.panel * task.depth());
  task.projection = allocate(out_panels * kernels.panel * task.hidden);
  Context context{&task, &kernels};
  if (task.transformed && task.projection) {
    parallel.run(hidden_panels + out_panels, 1, &pack_panels, &context);
    parallel.run(task.images * ceil_div(task.tiles(), task.block_tiles), 1, &run_blocks, &context);
  } else {
    context.failed = true;
  }
  std::free(task.transformed);
  std::free(task.projection);
  return !context.failed;
}

}  // namespace effkern
