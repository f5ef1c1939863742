// The kernels for instruction set avx2; setup.py adds its compiler flags by the file's name.
#define EFFKERN_ISA avx2
#define EFFKERN_VECTOR 32
#include "fused_mbconv/fused_mbconv_cpu_isa.h"

namespace effkern {

const FusedMBConvKernels& fused_mbconv_kernels_avx2() {
  static constexpr FusedMBConvKernels kernels{avx2::kPanel, &avx2::fused_scratch, &avx2::fused_pack,
                                              &avx2::fused_blocks};
  return kernels;
}

}  // namespace effkern
