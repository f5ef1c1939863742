// depthwise_conv2d with hooks on CPU: a scale, a shift and an activation of the input, and sums of
// the output. An operator of its own, so that depthwise_conv2d stays as cheap as it is.
#include <tuple>

#include "depthwise_conv2d/depthwise_conv2d_op.h"
#include "depthwise_conv2d/depthwise_conv2d_schema.h"

namespace effkern {
namespace {

constexpr char kName[] = "effkern.depthwise_conv2d_fused";

using Results = std::tuple<Tensor, Tensor, Tensor>;

// One number per input channel.
void read_per_channel(const char* name, const std::optional<Tensor>& tensor,
                      const DepthwiseConv2dProblem& p, const void** data, int64_t* stride) {
  if (!tensor) return;
  const TensorView view(*tensor);
  check_per_channel(kName, name, p, p.in_channels, view);
  *data = view.data();
  *stride = view.strides[0];
}

// Contiguous, in the accumulation type; empty where the problem does not ask for it.
Tensor empty_sums(const TensorView& input, const DepthwiseConv2dProblem& p, bool wanted) {
  const bool spatial = wanted && p.sums == Sums::kSpatial;
  const int64_t sizes[2] = {spatial ? p.batch : wanted ? p.out_channels : 0, p.out_channels};
  const int64_t strides[2] = {spatial ? p.out_channels : 1, 1};
  AtenTensorHandle handle;
  EFFKERN_SHIM(aoti_torch_empty_strided(spatial ? 2 : 1, sizes, strides, accumulation_dtype(p),
                                        input.device_type, input.device_index(), &handle));
  return Tensor(handle);
}

Results depthwise_conv2d_fused(const Tensor& input, const Tensor& weight,
                               const std::optional<Tensor>& bias,
                               const std::optional<Tensor>& input_scale,
                               const std::optional<Tensor>& input_shift,
                               EFFKERN_GEOMETRY_PARAMETERS, int64_t activation,
                               int64_t input_activation, int64_t sums, int64_t backend) {
  const TensorView x(input), w(weight);
  std::optional<TensorView> b;
  if (bias) b.emplace(*bias);
  DepthwiseConv2dProblem p =
      check_arguments(kName, Pass::kForward, x, w, b ? &*b : nullptr, EFFKERN_GEOMETRY, activation);
  EFFKERN_CHECK(input_activation >= 0 && input_activation < kNumActivations, kName,
                ": input_activation: wanted 0 to ", kNumActivations - 1, ", got ",
                input_activation);
  EFFKERN_CHECK(sums >= 0 && sums < kNumSums, kName, ": sums: wanted 0 to ", kNumSums - 1, ", got ",
                sums);
  EFFKERN_CHECK(input_scale || !input_shift, kName,
                ": input_shift: wanted together with input_scale, got it alone");
  const Backend wanted = check_backend(kName, backend, p.device);
  EFFKERN_CHECK(wanted != Backend::kTorch, kName,
                ": backend: wanted auto or cpu, got torch, which has no such operator");
  StencilHooks hooks;
  read_per_channel("input_scale", input_scale, p, &hooks.scale, &hooks.scale_stride);
  read_per_channel("input_shift", input_shift, p, &hooks.shift, &hooks.shift_stride);
  p.has_prologue = input_scale || input_activation != 0;
  p.input_activation = static_cast<Activation>(input_activation);
  p.sums = static_cast<Sums>(sums);

  const Tensor output = output_like(x, w, p);
  const Tensor sum = empty_sums(x, p, p.moments() > 0);
  const Tensor sum_of_squares = empty_sums(x, p, p.moments() > 1);
  const TensorView y(output), s(sum), q(sum_of_squares);
  const DepthwiseConv2dPlan plan = plan_depthwise_conv2d(p, wanted, cpu_isa());
  if (plan.kernel == Kernel::kEmpty) {
    EFFKERN_SHIM(aoti_torch_zero_(s.handle));
    EFFKERN_SHIM(aoti_torch_zero_(q.handle));
    return {output, sum, sum_of_squares};
  }
  hooks.sum = s.mutable_data();
  hooks.sum_of_squares = q.mutable_data();
  StencilTensors tensors{x.data(), x.strides4(), w.data(), w.strides4(),     nullptr,
                         0,        nullptr,      {},       y.mutable_data(), y.strides4()};
  if (b) tensors.bias = b->data(), tensors.bias_stride = b->strides[0];
  check_memory(kName, stencil_cpu(p, plan, cpu_isa(), tensors, kParallel, hooks));
  return {output, sum, sum_of_squares};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_FUSED_SCHEMA);
  m.def("_" EFFKERN_FUSED_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  m.impl("depthwise_conv2d_fused", TORCH_BOX(&depthwise_conv2d_fused));
  m.impl("_depthwise_conv2d_fused", TORCH_BOX(&depthwise_conv2d_fused));
}

}  // namespace effkern
