// The kernels for instruction set avx512; setup.py adds its compiler flags by the file's name.
// g++ 12 says so of its own intrinsics that start from an undefined register.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define EFFKERN_ISA avx512
#define EFFKERN_VECTOR 64
#include "pointwise/pointwise_cpu_isa.h"

namespace effkern {

const PointwiseKernels& pointwise_kernels_avx512() {
  static constexpr PointwiseKernels kernels{avx512::kPanel,       &avx512::pointwise_scratch,
                                            &avx512::pack,        &avx512::pointwise,
                                            &avx512::round_means, &avx512::gate};
  return kernels;
}

}  // namespace effkern
