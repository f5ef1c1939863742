// The kernels for instruction set avx512; setup.py adds its compiler flags by the file's name.
// g++ 12 says so of its own intrinsics that start from an undefined register.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define EFFKERN_ISA avx512
#define EFFKERN_VECTOR 64
#include "fused_mbconv/fused_mbconv_cpu_isa.h"

namespace effkern {

const FusedMBConvKernels& fused_mbconv_kernels_avx512() {
  static constexpr FusedMBConvKernels kernels{avx512::kPanel, &avx512::fused_scratch,
                                              &avx512::fused_pack, &avx512::fused_blocks};
  return kernels;
}

}  // namespace effkern
