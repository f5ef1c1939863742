// The kernels for instruction set avx2; setup.py adds its compiler flags by the file's name.
#define EFFKERN_ISA avx2
#define EFFKERN_VECTOR 32
#include "pointwise/pointwise_cpu_isa.h"

namespace effkern {

const PointwiseKernels& pointwise_kernels_avx2() {
  static constexpr PointwiseKernels kernels{avx2::kPanel,       &avx2::pointwise_scratch,
                                            &avx2::pack,        &avx2::pointwise,
                                            &avx2::round_means, &avx2::gate};
  return kernels;
}

}  // namespace effkern
