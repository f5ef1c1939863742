// The kernels for instruction set avx512; setup.py adds its compiler flags by the file's name.
// g++ 12 says so of its own intrinsics that start from an undefined register.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define EFFKERN_ISA avx512
#define EFFKERN_VECTOR 64
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu_isa.h"

namespace effkern {

const LayerNormKernels& layer_norm_kernels_avx512(DType dtype, bool widens) {
  return avx512::layer_norm_kernels(dtype, widens);
}

}  // namespace effkern
