// Checks of fused_mbconv's arguments, and its result.
#include "fused_mbconv/fused_mbconv_arguments.h"

#include <algorithm>

#include "common/argument_checks.h"

namespace effkern {
FusedMBConvCall check_fused_mbconv(const char* op, const FusedMBConvArguments& a) {
  const TensorView input(a.input), weight(a.expand_weight);
  EFFKERN_CHECK(input.dim == 4, op, ": input: wanted (N, C, H, W), got ", input.shape());
  EFFKERN_CHECK(weight.dim == 4, op, ": expand_weight: wanted (E, C, kH, kW), got ",
                weight.shape());
  const ArgumentChecks checks(op, input);
  FusedMBConvCall call;
  FusedMBConvProblem& p = call.problem;
  p.dtype = checks.dtype_of_16_bits();
  p.batch = input.sizes[0], p.in_channels = input.sizes[1];
  p.height = input.sizes[2], p.width = input.sizes[3];
  p.hidden = p.out_channels = weight.sizes[0];
  p.kernel_h = weight.sizes[2], p.kernel_w = weight.sizes[3];
  p.has_projection = a.project_weight.has_value(), p.has_residual = a.residual.has_value();
  if (p.has_projection) {
    const TensorView projection(*a.project_weight);
    EFFKERN_CHECK(projection.dim == 2, op, ": project_weight: wanted (O, E), got ",
                  projection.shape());
    p.out_channels = projection.sizes[0];
  }
  p.stride_h = a.stride_h, p.stride_w = a.stride_w;
  p.pad_top = a.pad_top, p.pad_bottom = a.pad_bottom;
  p.pad_left = a.pad_left, p.pad_right = a.pad_right;
  constexpr int64_t kMostPadding = int64_t{1} << 30;
  for (int64_t pad : {p.pad_top, p.pad_bottom, p.pad_left, p.pad_right}) {
    EFFKERN_CHECK(pad >= 0 && pad < kMostPadding, op, ": padding: wanted values from 0 to ",
                  kMostPadding, ", got ", pad);
  }
  EFFKERN_CHECK(p.stride_h >= 1 && p.stride_w >= 1, op, ": stride: wanted values >= 1, got ",
                std::min(p.stride_h, p.stride_w));
  EFFKERN_CHECK(p.in_channels > 0 && p.hidden > 0 && p.kernel_h > 0 && p.kernel_w > 0 &&
                    p.kernel_h <= p.height + p.pad_top + p.pad_bottom &&
                    p.kernel_w <= p.width + p.pad_left + p.pad_right,
                op, ": expand_weight: wanted a kernel that fits into the padded input, got ",
                weight.shape(), " for ", input.shape());
  EFFKERN_CHECK(a.activation >= 0 && a.activation < kNumActivations, op,
                ": activation: wanted 0 to ", kNumActivations - 1, ", got ", a.activation);
  p.activation = static_cast<Activation>(a.activation);
  EFFKERN_CHECK(p.has_projection || !a.project_bias, op,
                ": project_bias: wanted with project_weight, got it alone");
  EFFKERN_CHECK(p.has_projection || !a.project_scale, op,
                ": project_scale: wanted with project_weight, got it alone");
  const FusedMBConvPlan plan = plan_fused_mbconv(p);
  EFFKERN_CHECK(!plan.refusal, op, ": input: wanted a call that the CUDA kernel takes, got ",
                plan.refusal);

  FusedMBConvPointers& t = call.tensors;
  t.input = checks.image("input", input, {p.batch, p.in_channels, p.height, p.width});
  t.expand_weight =
      checks.image("expand_weight", weight, {p.hidden, p.in_channels, p.kernel_h, p.kernel_w});
  t.expand_bias = checks.matrix("expand_bias", a.expand_bias, 0, p.hidden, 2);
  t.project_weight =
      checks.matrix("project_weight", a.project_weight, p.out_channels, p.hidden, 16);
  t.project_bias = checks.matrix("project_bias", a.project_bias, 0, p.out_channels, 2);
  t.project_scale = checks.matrix("project_scale", a.project_scale, 0, p.out_channels, 16);
  if (a.residual) {
    t.residual = checks.image("residual", TensorView(*a.residual),
                              {p.batch, p.out_channels, p.out_height(), p.out_width()});
  }
  return call;
}

Tensor fused_mbconv_output(const FusedMBConvArguments& a, const FusedMBConvProblem& p) {
  return empty(TensorView(a.input), {p.batch, p.out_channels, p.out_height(), p.out_width()}, true);
}

}  // namespace effkern
