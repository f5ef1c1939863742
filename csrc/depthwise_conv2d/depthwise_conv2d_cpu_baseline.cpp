// The CPU kernels for the instruction set baseline; setup.py adds its compiler flags by the file's
// name.
#define EFFKERN_ISA baseline
#define EFFKERN_VECTOR 16
#include "depthwise_conv2d/depthwise_conv2d_cpu_isa.h"

namespace effkern {

const CpuKernels& cpu_kernels_baseline() {
  using namespace baseline;
  static constexpr CpuKernels kernels{"baseline", kMaxCols, &stencil, &weight_grad,
                                      &reduce_weight_grad};
  return kernels;
}

}  // namespace effkern
