// The CPU kernels for the instruction set avx512; setup.py adds its compiler flags by the file's
// name. g++ 12 says so of its own intrinsics that start from an undefined register.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define EFFKERN_ISA avx512
#define EFFKERN_VECTOR 64
#include "depthwise_conv2d/depthwise_conv2d_cpu_isa.h"

namespace effkern {

const CpuKernels& cpu_kernels_avx512() {
  using namespace avx512;
  static constexpr CpuKernels kernels{"avx512", kMaxCols, &stencil, &weight_grad,
                                      &reduce_weight_grad};
  return kernels;
}

}  // namespace effkern
