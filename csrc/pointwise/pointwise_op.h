// What operators that contain 1x1 convolutions call.
#pragma once

#include <optional>

#include "depthwise_conv2d/depthwise_conv2d_op.h"
#include "pointwise/pointwise_cpu.h"

namespace effkern {

// From tensors, checked; see pointwise_op.cpp for what they are. Gate and prologue are added to it.
// `packed` is what _pack_pointwise made of the weight, or nothing.
PointwiseTask pointwise_task(const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& packed,
                             const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                             const std::optional<Tensor>& residual, int64_t activation,
                             const Tensor& output);

// On torch's threads.
void run_pointwise(PointwiseTask task);

}  // namespace effkern
