// The kernels for instruction set avx2; setup.py adds its compiler flags by the file's name.
#define EFFKERN_ISA avx2
#define EFFKERN_VECTOR 32
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu_isa.h"

namespace effkern {

const LayerNormKernels& layer_norm_kernels_avx2(DType dtype, bool widens) {
  return avx2::layer_norm_kernels(dtype, widens);
}

}  // namespace effkern
