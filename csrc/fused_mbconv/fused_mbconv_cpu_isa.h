// The CPU kernels of one instruction set, from its macros; see csrc/common/simd.h.
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#include "fused_mbconv/fused_mbconv_cpu.h"
#include "pointwise/pointwise_cpu_isa.h"
// Parts of this file.
#include "fused_mbconv/fused_mbconv_cpu_block.h"
#include "fused_mbconv/fused_mbconv_cpu_direct.h"
#include "fused_mbconv/fused_mbconv_cpu_winograd.h"

namespace effkern {
namespace EFFKERN_ISA {

template <class Function>
EFFKERN_INLINE void with_convolution(const FusedMBConvTask& task, const Function& function) {
  if (task.winograd()) return function(Winograd{});
  function(Direct{});
}

inline int64_t fused_scratch(const FusedMBConvTask& task) {
  int64_t size = 0;
  with_convolution(task, [&](auto kind) { size = scratch_of<decltype(kind)>(task).end; });
  return size;
}

inline void fused_pack(const FusedMBConvTask& task, int64_t begin, int64_t end) {
  const int64_t hidden_panels = (task.hidden + kPanel - 1) / kPanel;
  with_convolution(task, [&](auto kind) {
    with_type(task.dtype, [&](auto* type) {
      using T = Plain<decltype(type)>;
      for (int64_t i = begin; i < end; ++i) {
        if (i < hidden_panels) {
          decltype(kind)::template pack<T>(task, i);
        } else {
          pack_rows<T>(task.project_weight, task.project_stride, task.out_channels, task.hidden,
                       i - hidden_panels, task.projection);
        }
      }
    });
  });
}

inline void fused_blocks(const FusedMBConvTask& task, int64_t begin, int64_t end, float* scratch) {
  with_convolution(task, [&](auto kind) {
    with_type(task.dtype, [&](auto* type) {
      run_blocks<Plain<decltype(type)>, decltype(kind)>(task, begin, end, scratch);
    });
  });
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
