// The schemas of the operators and of their twins; three are the same for every library that has
// them.
#pragma once

#include "common/checks.h"
#include "depthwise_conv2d/depthwise_conv2d_arguments.h"

// The C++ parameters that stand for the schemas' geometry, and the Geometry of them.
#define EFFKERN_GEOMETRY_PARAMETERS                                                          \
  int64_t stride_h, int64_t stride_w, int64_t pad_top, int64_t pad_bottom, int64_t pad_left, \
      int64_t pad_right, int64_t dilation_h, int64_t dilation_w
#define EFFKERN_GEOMETRY \
  Geometry { stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w }

// Integers rather than int[2]: boxing lists costs a microsecond per call. The paddings may depend
// on the input's size ("same" as TensorFlow has it), so they are symbolic under torch.compile.
#define EFFKERN_GEOMETRY_SCHEMA                                                             \
  "int stride_h, int stride_w, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt " \
  "pad_right, int dilation_h, int dilation_w"
#define EFFKERN_FORWARD_SCHEMA                                                           \
  "depthwise_conv2d(Tensor input, Tensor weight, Tensor? bias, " EFFKERN_GEOMETRY_SCHEMA \
  ", int activation, int backend) -> Tensor"
// `sum` is (C * M,), (N, C * M) or empty, in the accumulation type, as
// `sum_of_squares`, the scale and the shift are.
#define EFFKERN_FUSED_SCHEMA                                                                  \
  "depthwise_conv2d_fused(Tensor input, Tensor weight, Tensor? bias, Tensor? input_scale, "   \
  "Tensor? input_shift, " EFFKERN_GEOMETRY_SCHEMA                                             \
  ", int activation, int input_activation, int sums, int backend) -> (Tensor output, Tensor " \
  "sum, Tensor sum_of_squares)"
#define EFFKERN_ACTIVATION_BACKWARD_SCHEMA                                                 \
  "depthwise_conv2d_activation_backward(Tensor grad_output, Tensor input, Tensor weight, " \
  "Tensor? bias, " EFFKERN_GEOMETRY_SCHEMA ", int activation, int backend) -> Tensor"
#define EFFKERN_BACKWARD_SCHEMA                                           \
  "depthwise_conv2d_backward(Tensor grad_output, Tensor input, Tensor "   \
  "weight, " EFFKERN_GEOMETRY_SCHEMA                                      \
  ", bool need_input, bool need_weight, bool need_bias, int backend) -> " \
  "(Tensor grad_input, Tensor grad_weight, Tensor grad_bias)"

namespace effkern {

inline void define_depthwise_conv2d(torch::stable::detail::StableLibrary& m) {
  for (const char* schema : {EFFKERN_FORWARD_SCHEMA, EFFKERN_ACTIVATION_BACKWARD_SCHEMA,
                             EFFKERN_BACKWARD_SCHEMA, "_" EFFKERN_FORWARD_SCHEMA,
                             "_" EFFKERN_ACTIVATION_BACKWARD_SCHEMA, "_" EFFKERN_BACKWARD_SCHEMA}) {
    m.def(schema);
  }
}

using BoxedKernel = void (*)(StableIValue*, uint64_t, uint64_t);

inline void implement_depthwise_conv2d(torch::stable::detail::StableLibrary& m, BoxedKernel forward,
                                       BoxedKernel backward, BoxedKernel activation_backward) {
  m.impl("depthwise_conv2d", forward);
  m.impl("_depthwise_conv2d", forward);
  m.impl("depthwise_conv2d_activation_backward", activation_backward);
  m.impl("_depthwise_conv2d_activation_backward", activation_backward);
  m.impl("depthwise_conv2d_backward", backward);
  m.impl("_depthwise_conv2d_backward", backward);
}

}  // namespace effkern
