// What operators with CUDA kernels for inference ask of their tensors.
#pragma once

#include <optional>

#include "common/tensor_view.h"
#include "depthwise_conv2d/depthwise_conv2d_arguments.h"

namespace effkern {

class ArgumentChecks {
 public:
  // `op` for messages; the other tensors have the input's dtype and device.
  ArgumentChecks(const char* op, const TensorView& input) : op_(op), input_(input) {}

  // A tensor like the input on its device, aligned where `bytes` says so.
  const void* data(const char* name, const TensorView& tensor, uintptr_t bytes) const {
    EFFKERN_CHECK(tensor.dtype == input_.dtype, op_, ": ", name, ": wanted ",
                  dtype_name(input_.dtype), " as input is, got ", dtype_name(tensor.dtype));
    EFFKERN_CHECK(
        tensor.device_type == input_.device_type && tensor.device_index() == input_.device_index(),
        op_, ": ", name, ": wanted the input's device, got another");
    const void* pointer = tensor.data();
    EFFKERN_CHECK(reinterpret_cast<uintptr_t>(pointer) % bytes == 0, op_, ": ", name,
                  ": wanted memory aligned to ", bytes, " bytes, got ", pointer);
    return pointer;
  }

  // Dense channels_last, of this shape.
  const void* image(const char* name, const TensorView& tensor, const int64_t (&sizes)[4]) const {
    EFFKERN_CHECK(tensor.dim == 4, op_, ": ", name, ": wanted 4 dimensions, got ", tensor.shape());
    int64_t stride = 1;
    for (int d : {1, 3, 2, 0}) {
      EFFKERN_CHECK(tensor.sizes[d] == sizes[d], op_, ": ", name, ": wanted shape (", sizes[0],
                    ", ", sizes[1], ", ", sizes[2], ", ", sizes[3], "), got ", tensor.shape());
      EFFKERN_CHECK(sizes[d] <= 1 || tensor.strides[d] == stride, op_, ": ", name,
                    ": wanted dense channels_last memory, got a stride of ", tensor.strides[d],
                    " for dimension ", d);
      stride *= sizes[d];
    }
    return data(name, tensor, 16);
  }

  // Contiguous, with `rows` rows; a vector if there are none.
  const void* matrix(const char* name, const std::optional<Tensor>& tensor, int64_t rows,
                     int64_t columns, uintptr_t bytes) const {
    if (!tensor) return nullptr;
    const TensorView view(*tensor);
    const bool fits = rows ? view.dim == 2 && view.sizes[0] == rows : view.dim == 1;
    EFFKERN_CHECK(fits && view.sizes[view.dim - 1] == columns && tensor->is_contiguous(), op_, ": ",
                  name, ": wanted a contiguous tensor of ", rows ? rows : 1, " x ", columns,
                  " numbers, got ", view.shape());
    return data(name, view, bytes);
  }

  // A contiguous vector of float32, whatever the input's dtype is.
  const float* floats(const char* name, const std::optional<Tensor>& tensor, int64_t size) const {
    if (!tensor) return nullptr;
    const TensorView view(*tensor);
    EFFKERN_CHECK(view.dtype == aoti_torch_dtype_float32(), op_, ": ", name,
                  ": wanted float32, got ", dtype_name(view.dtype));
    EFFKERN_CHECK(
        view.device_type == input_.device_type && view.device_index() == input_.device_index(), op_,
        ": ", name, ": wanted the input's device, got another");
    EFFKERN_CHECK(view.dim == 1 && view.sizes[0] == size && tensor->is_contiguous(), op_, ": ",
                  name, ": wanted a contiguous tensor of ", size, " numbers, got ", view.shape());
    return static_cast<const float*>(view.data());
  }

  // Of the input.
  DType dtype_of_16_bits() const {
    if (input_.dtype == aoti_torch_dtype_float16()) return DType::kFloat16;
    EFFKERN_CHECK(input_.dtype == aoti_torch_dtype_bfloat16(), op_,
                  ": input: wanted float16 or bfloat16, got ", dtype_name(input_.dtype));
    return DType::kBFloat16;
  }

 private:
  const char* op_;
  const TensorView& input_;
};

}  // namespace effkern
