// The memory format of tensors with four dimensions, from sizes and strides.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// As at::Tensor::suggest_memory_format decides it, so that outputs agree with torch's.
inline bool is_channels_last(const int64_t* sizes, const int64_t* strides) {
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (int d : {1, 3, 2, 0}) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    // Strides of a contiguous (N, 1, H, W) or (N, C, 1, 1) do not tell: it stays contiguous.
    if (d == 0 && least == strides[1]) return false;
    least = strides[d];
    if (sizes[d] > 1) least *= sizes[d];
  }
  return true;
}

// Of the images of a problem.
inline Layout layout_of(const int64_t* sizes, const int64_t* strides) {
  if (is_channels_last(sizes, strides)) return Layout::kChannelsLast;
  if (strides[3] == 1 || sizes[3] == 1) return Layout::kContiguous;
  return strides[1] == 1 ? Layout::kChannelsLast : Layout::kStrided;
}

}  // namespace effkern
