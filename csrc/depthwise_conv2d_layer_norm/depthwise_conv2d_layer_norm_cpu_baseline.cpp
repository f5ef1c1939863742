// The kernels for instruction set baseline; setup.py adds its compiler flags by the file's name.
#define EFFKERN_ISA baseline
#define EFFKERN_VECTOR 16
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu_isa.h"

namespace effkern {

const LayerNormKernels& layer_norm_kernels_baseline(DType dtype, bool widens) {
  return baseline::layer_norm_kernels(dtype, widens);
}

}  // namespace effkern
