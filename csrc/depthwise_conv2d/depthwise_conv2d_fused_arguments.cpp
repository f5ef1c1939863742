// Checks of the forward with hooks, and its results.
#include "common/checks.h"
#include "depthwise_conv2d/depthwise_conv2d_fused.h"

namespace effkern {

DepthwiseConv2dProblem check_fused_arguments(
    const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& input_scale, const std::optional<Tensor>& input_shift,
    const Geometry& geometry, int64_t activation, int64_t input_activation, int64_t sums) {
  const TensorView x(input), w(weight);
  std::optional<TensorView> b;
  if (bias) b.emplace(*bias);
  DepthwiseConv2dProblem p =
      check_arguments(op, Pass::kForward, x, w, b ? &*b : nullptr, geometry, activation);
  EFFKERN_CHECK(input_activation >= 0 && input_activation < kNumActivations, op,
                ": input_activation: wanted 0 to ", kNumActivations - 1, ", got ",
                input_activation);
  EFFKERN_CHECK(sums >= 0 && sums < kNumSums, op, ": sums: wanted 0 to ", kNumSums - 1, ", got ",
                sums);
  EFFKERN_CHECK(input_scale || !input_shift, op,
                ": input_shift: wanted together with input_scale, got it alone");
  if (input_scale) {
    check_per_channel(op, "input_scale", p, p.in_channels, TensorView(*input_scale));
  }
  if (input_shift) {
    check_per_channel(op, "input_shift", p, p.in_channels, TensorView(*input_shift));
  }
  p.has_prologue = input_scale || input_activation != 0;
  p.input_activation = static_cast<Activation>(input_activation);
  p.sums = static_cast<Sums>(sums);
  return p;
}

Tensor empty_sums(const TensorView& input, const DepthwiseConv2dProblem& p, bool wanted) {
  const bool spatial = wanted && p.sums == Sums::kSpatial;
  const int64_t sizes[2] = {spatial ? p.batch : wanted ? p.out_channels : 0, p.out_channels};
  const int64_t strides[2] = {spatial ? p.out_channels : 1, 1};
  AtenTensorHandle handle;
  EFFKERN_SHIM(aoti_torch_empty_strided(spatial ? 2 : 1, sizes, strides, accumulation_dtype(p),
                                        input.device_type, input.device_index(), &handle));
  return Tensor(handle);
}

void fail_without_hooks(const char* op, const DepthwiseConv2dProblem& p) {
  const char* reason = no_hooked_cuda_kernel(p);
  fail(op, ": input: wanted a call that the direct CUDA kernels take, got ",
       reason ? reason : "memory without neighbouring pixels or aligned channels", " for ", p.batch,
       "x", p.in_channels, "x", p.height, "x", p.width, ", kernel ", p.kernel_h, "x", p.kernel_w,
       ", stride ", p.stride_h, "x", p.stride_w);
}

}  // namespace effkern
