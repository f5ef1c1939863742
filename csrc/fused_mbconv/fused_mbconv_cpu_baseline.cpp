// The kernels for instruction set baseline; setup.py adds its compiler flags by the file's name.
#define EFFKERN_ISA baseline
#define EFFKERN_VECTOR 16
#include "fused_mbconv/fused_mbconv_cpu_isa.h"

namespace effkern {

const FusedMBConvKernels& fused_mbconv_kernels_baseline() {
  static constexpr FusedMBConvKernels kernels{baseline::kPanel, &baseline::fused_scratch,
                                              &baseline::fused_pack, &baseline::fused_blocks};
  return kernels;
}

}  // namespace effkern
