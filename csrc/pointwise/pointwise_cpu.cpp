// CPU driver: plan, units, scratch, threads.
#include "pointwise/pointwise_cpu.h"

#include <atomic>
#include <cstdlib>

namespace effkern {

const PointwiseKernels& pointwise_kernels(CpuIsa isa) {
#if defined(EFFKERN_X86)
  if (isa >= CpuIsa::kAvx512) return pointwise_kernels_avx512();
  if (isa == CpuIsa::kAvx2) return pointwise_kernels_avx2();
#endif
  (void)isa;
  return pointwise_kernels_baseline();
}

namespace {

struct Context {
  const PointwiseTask* task;
  const PointwiseKernels* kernels;
  std::atomic<bool> failed{false};
};

struct PackContext {
  const PointwiseWeight* weight;
  DType dtype;
  const PointwiseKernels* kernels;
  void* packed;
  std::atomic<bool> failed{false};
};

// Calls function(scratch) with so many numbers; false if there is no memory.
template <class Function>
bool with_scratch(int64_t numbers, const Function& function) {
  const int64_t bytes = numbers * static_cast<int64_t>(sizeof(float));
  void* scratch = std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64));
  if (!scratch) return false;
  function(static_cast<float*>(scratch));
  std::free(scratch);
  return true;
}

void run_units(int64_t begin, int64_t end, void* context) {
  Context& c = *static_cast<Context*>(context);
  const auto run = [&](float* scratch) { c.kernels->run(*c.task, begin, end, scratch); };
  if (!with_scratch(c.kernels->scratch(*c.task), run)) c.failed = true;
}

void pack_panels(int64_t begin, int64_t end, void* context) {
  PackContext& c = *static_cast<PackContext*>(context);
  const auto pack = [&](float* scratch) {
    c.kernels->pack(*c.weight, c.dtype, begin, end, c.packed, scratch);
  };
  if (!with_scratch(c.kernels->panel * c.weight->in_channels, pack)) c.failed = true;
}

}  // namespace

bool pack_pointwise_cpu(const PointwiseWeight& weight, DType dtype, CpuIsa isa, void* packed,
                        Parallel parallel) {
  const PointwiseKernels& kernels = pointwise_kernels(isa);
  PackContext context{&weight, dtype, &kernels, packed};
  parallel.run((weight.out_channels + kernels.panel - 1) / kernels.panel, 1, &pack_panels,
               &context);
  return !context.failed;
}

bool pointwise_cpu(PointwiseTask task, CpuIsa isa, int threads, Parallel parallel) {
  PointwiseProblem& p = task.problem;
  if (p.images * p.pixels * p.out_channels == 0) return true;
  task.plan = plan_pointwise(p, isa, threads);
  if (task.plan.merges_images) {
    p.pixels *= p.images;
    p.images = 1;
  }
  Context context{&task, &pointwise_kernels(isa)};
  const int64_t block = task.plan.block_pixels, panel = context.kernels->panel;
  const int64_t blocks = (p.pixels + block - 1) / block;
  const int64_t panels = (p.out_channels + panel - 1) / panel;
  // About 30 us of work are worth a thread.
  const int64_t unit = block * panel * (p.in_channels + 16);
  const int64_t grain = (int64_t{1} << 21) / (unit + 1) + 1;
  parallel.run(p.images * blocks * panels, grain, &run_units, &context);
  return !context.failed;
}

}  // namespace effkern
