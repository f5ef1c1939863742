// The operators' arguments, checked and turned into a problem; shared by every C++ backend.
#pragma once

#include <optional>

#include "common/tensor_view.h"
#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// As torch calls it, for messages.
const char* dtype_name(int32_t dtype);

// In which the kernels add up numbers of the problem's dtype.
int32_t accumulation_dtype(const DepthwiseConv2dProblem& problem);

// The integers that every operator of this family takes, in the schema's order.
struct Geometry {
  int64_t stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w;
};

// Checks everything that torch's convolution checks, and throws with the operator's name (`op`),
// the argument, what was wanted and what was got. Layout, pass and activation are filled in as
// well.
DepthwiseConv2dProblem check_arguments(const char* op, Pass pass, const TensorView& input,
                                       const TensorView& weight, const TensorView* bias,
                                       const Geometry& geometry, int64_t activation);

// Checks a gradient against the output that the problem describes.
void check_grad_output(const char* op, const DepthwiseConv2dProblem& problem,
                       const TensorView& grad_output, const TensorView& input);

// Checks that an argument is one number per channel, in the accumulation type, on the problem's
// device.
void check_per_channel(const char* op, const char* name, const DepthwiseConv2dProblem& problem,
                       int64_t channels, const TensorView& tensor);

// Checks that `backend` is a backend that can run on the problem's device in this library.
Backend check_backend(const char* op, int64_t backend, DeviceType device);

}  // namespace effkern
