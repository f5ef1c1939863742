// The arguments of pointwise's CUDA kernel, checked and turned into a problem; shared by the
// operator and its emulated twin.
#pragma once

#include <optional>

#include "common/tensor_view.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "pointwise/pointwise_cuda.h"

// residual + scale * activation(conv2d(gate * input, weight) + bias): input (N, C, H, W) and
// residual (N, O, H, W) are dense channels_last, all others contiguous: weight (O, C), bias and
// scale (O,), gate (N, C).
#define EFFKERN_POINTWISE_CUDA_SCHEMA                                                          \
  "pointwise(Tensor input, Tensor weight, Tensor? bias, Tensor? gate, Tensor? scale, Tensor? " \
  "residual, int activation, int backend) -> Tensor"

namespace effkern {

// The schema's parameters but the backend.
struct PointwiseCudaArguments {
  const Tensor &input, &weight;
  const std::optional<Tensor>&bias, &gate, &scale, &residual;
  int64_t activation;
};

struct PointwiseCudaCall {
  PointwiseCudaProblem problem;
  // The result's is null in what check_pointwise_cuda returns.
  PointwiseCudaPointers tensors;
};

// Throws with the argument, what was wanted and what was got; also where the plan is a refusal.
PointwiseCudaCall check_pointwise_cuda(const char* op, const PointwiseCudaArguments& arguments);

// A fresh channels_last result, which becomes the call's output.
Tensor pointwise_cuda_output(const PointwiseCudaArguments& arguments, PointwiseCudaCall* call);

// Throws if a launch returned an error. Only where there are launches: a library without CUDA has
// no cuda_error_string.
inline void check_pointwise_cuda_launch(const char* op, const PointwiseCudaProblem& p, int error) {
  if (__builtin_expect(error == 0, 1)) return;
  fail(op, ": CUDA error: ", cuda_error_string(error), ", at the launch for ", p.images,
       " images of ", p.pixels, " pixels, ", p.in_channels, " input and ", p.out_channels,
       " output channels");
}

}  // namespace effkern
