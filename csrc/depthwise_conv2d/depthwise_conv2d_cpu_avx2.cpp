// The CPU kernels for the instruction set avx2; setup.py adds its compiler flags by the file's
// name.
#define EFFKERN_ISA avx2
#define EFFKERN_VECTOR 32
#include "depthwise_conv2d/depthwise_conv2d_cpu_isa.h"

namespace effkern {

const CpuKernels& cpu_kernels_avx2() {
  using namespace avx2;
  static constexpr CpuKernels kernels{"avx2", kMaxCols, &stencil, &weight_grad,
                                      &reduce_weight_grad};
  return kernels;
}

}  // namespace effkern
