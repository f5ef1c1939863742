// From a DType to the device type it names.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// Calls function(T()) with the type of `dtype`.
template <typename Function>
auto with_dtype(DType dtype, Function function) {
#ifdef EFFKERN_EMULATION_TWO_TYPES
  // The sanitizers' builds: one type of either width goes through every line, in half the time.
  if (dtype == DType::kFloat32) return function(float());
  return function(__nv_bfloat16());
#else
  switch (dtype) {
    case DType::kFloat64:
      return function(double());
    case DType::kFloat32:
      return function(float());
    case DType::kFloat16:
      return function(__half());
    case DType::kBFloat16:
      break;
  }
  return function(__nv_bfloat16());
#endif
}

}  // namespace effkern
