// The kernels for instruction set baseline; setup.py adds its compiler flags by the file's name.
#define EFFKERN_ISA baseline
#define EFFKERN_VECTOR 16
#include "pointwise/pointwise_cpu_isa.h"

namespace effkern {

const PointwiseKernels& pointwise_kernels_baseline() {
  static constexpr PointwiseKernels kernels{baseline::kPanel,       &baseline::pointwise_scratch,
                                            &baseline::pack,        &baseline::pointwise,
                                            &baseline::round_means, &baseline::gate};
  return kernels;
}

}  // namespace effkern
