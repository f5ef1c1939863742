// What the operators ask of a tensor, read once through torch's C shim.
#pragma once

#include <string>

#include "common/checks.h"
#include "common/memory_format.h"
#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

using torch::stable::Tensor;

struct TensorView {
  AtenTensorHandle handle;
  int64_t dim;
  const int64_t* sizes;
  const int64_t* strides;
  int32_t dtype, device_type;

  explicit TensorView(const Tensor& tensor) : handle(tensor.get()) {
    int64_t *size_pointer, *stride_pointer;
    EFFKERN_SHIM(aoti_torch_get_dim(handle, &dim));
    EFFKERN_SHIM(aoti_torch_get_sizes(handle, &size_pointer));
    EFFKERN_SHIM(aoti_torch_get_strides(handle, &stride_pointer));
    EFFKERN_SHIM(aoti_torch_get_dtype(handle, &dtype));
    EFFKERN_SHIM(aoti_torch_get_device_type(handle, &device_type));
    sizes = size_pointer;
    strides = stride_pointer;
  }

  int32_t device_index() const {
    int32_t index;
    EFFKERN_SHIM(aoti_torch_get_device_index(handle, &index));
    return index;
  }
  const void* data() const {
    const void* pointer;
    EFFKERN_SHIM(torch_get_const_data_ptr(handle, &pointer));
    return pointer;
  }
  void* mutable_data() const {
    void* pointer;
    EFFKERN_SHIM(torch_get_mutable_data_ptr(handle, &pointer));
    return pointer;
  }
  // Of a tensor with four dimensions.
  Strides4 strides4() const { return {strides[0], strides[1], strides[2], strides[3]}; }

  std::string shape() const {
    std::string text = "(";
    for (int64_t i = 0; i < dim; ++i) {
      text += (i ? ", " : "") + std::to_string(sizes[i]);
    }
    return text + (dim == 1 ? ",)" : ")");
  }

  bool is_channels_last() const { return dim == 4 && effkern::is_channels_last(sizes, strides); }
};

// A fresh tensor like `like` (dtype, device) in one of the two dense formats.
inline Tensor empty(const TensorView& like, const int64_t (&sizes)[4], bool channels_last) {
  const int64_t c = sizes[1], h = sizes[2], w = sizes[3];
  const int64_t contiguous[4] = {c * h * w, h * w, w, 1};
  const int64_t last[4] = {c * h * w, 1, w * c, c};
  AtenTensorHandle handle;
  EFFKERN_SHIM(aoti_torch_empty_strided(4, sizes, channels_last ? last : contiguous, like.dtype,
                                        like.device_type, like.device_index(), &handle));
  return Tensor(handle);
}

inline Tensor empty(const TensorView& like, int64_t size) {
  const int64_t stride = 1;
  AtenTensorHandle handle;
  EFFKERN_SHIM(aoti_torch_empty_strided(1, &size, &stride, like.dtype, like.device_type,
                                        like.device_index(), &handle));
  return Tensor(handle);
}

}  // namespace effkern
