// The CPU kernels of one instruction set, from its macros; see csrc/common/simd.h.
// Borders of a few elements are zeroed and copied in loops of one or two vectors, which must not
// become calls of memset and memcpy.
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#include "common/simd.h"
#include "common/simd_math.h"
#include "common/simd_span.h"
// After the spans.
#include "common/simd_masked.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_pack.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_tile.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_weights.h"
// After the packing of the source.
#include "depthwise_conv2d/depthwise_conv2d_cpu_prologue.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_sums.h"
// After the packing of weights, and the sums.
#if EFFKERN_VECTOR > 16
#include "depthwise_conv2d/depthwise_conv2d_cpu_uncached.h"
// After what it fetches with.
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_channels.h"
// After the channels.
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_gradient.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_rows.h"
// After the rows.
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_rows_gradient.h"
#endif
#include "depthwise_conv2d/depthwise_conv2d_cpu_wgrad_output.h"
#if EFFKERN_VECTOR > 16
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_wgrad.h"
// After the channels.
#include "depthwise_conv2d/depthwise_conv2d_cpu_direct_rows_wgrad.h"
#endif
// After the tiles.
#include "depthwise_conv2d/depthwise_conv2d_cpu_output.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_stencil.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu_wgrad.h"

namespace effkern {
namespace EFFKERN_ISA {

inline void stencil(const StencilTask& task, DType dtype, int64_t begin, int64_t end,
                    void* scratch) {
  switch (dtype) {
    case DType::kFloat64:
      return run_stencil<double>(task, begin, end, scratch);
    case DType::kFloat32:
      return run_stencil<float>(task, begin, end, scratch);
    case DType::kFloat16:
      return run_stencil<Half>(task, begin, end, scratch);
    case DType::kBFloat16:
      return run_stencil<BFloat16>(task, begin, end, scratch);
  }
}

inline void weight_grad(const WeightGradTask& task, int64_t begin, int64_t end, void* scratch) {
  switch (task.problem.dtype) {
    case DType::kFloat64:
      return run_weight_grad<double>(task, begin, end, scratch);
    case DType::kFloat32:
      return run_weight_grad<float>(task, begin, end, scratch);
    case DType::kFloat16:
      return run_weight_grad<Half>(task, begin, end, scratch);
    case DType::kBFloat16:
      return run_weight_grad<BFloat16>(task, begin, end, scratch);
  }
}

inline void reduce_weight_grad(const WeightGradTask& task, int64_t begin, int64_t end) {
  switch (task.problem.dtype) {
    case DType::kFloat64:
      return reduce_splits<double>(task, begin, end);
    case DType::kFloat32:
      return reduce_splits<float>(task, begin, end);
    case DType::kFloat16:
      return reduce_splits<Half>(task, begin, end);
    case DType::kBFloat16:
      return reduce_splits<BFloat16>(task, begin, end);
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
