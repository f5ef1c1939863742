// depthwise_conv2d with hooks: a scale, a shift and an activation of the input, and sums of
// the output. An operator of its own, so that depthwise_conv2d stays as cheap as it is.
#include <tuple>

#include "depthwise_conv2d/depthwise_conv2d_fused.h"
#include "depthwise_conv2d/depthwise_conv2d_op.h"
#include "depthwise_conv2d/depthwise_conv2d_schema.h"

namespace effkern {
namespace {

constexpr char kName[] = "effkern.depthwise_conv2d_fused";

// One number per input channel.
void read_per_channel(const std::optional<Tensor>& tensor, const void** data, int64_t* stride) {
  if (!tensor) return;
  const TensorView view(*tensor);
  *data = view.data();
  *stride = view.strides[0];
}

}  // namespace

FusedResults run_depthwise_conv2d_fused(const Tensor& input, const Tensor& weight,
                                        const std::optional<Tensor>& bias,
                                        const std::optional<Tensor>& input_scale,
                                        const std::optional<Tensor>& input_shift,
                                        const Geometry& geometry, int64_t activation,
                                        int64_t input_activation, int64_t sums, int64_t backend) {
  const DepthwiseConv2dProblem p =
      check_fused_arguments(kName, input, weight, bias, input_scale, input_shift, geometry,
                            activation, input_activation, sums);
  const Backend wanted = check_backend(kName, backend, p.device);
  const bool on_cpu = p.device == DeviceType::kCpu;
  EFFKERN_CHECK(wanted != Backend::kTorch && (on_cpu || wanted == Backend::kCuda), kName,
                ": backend: wanted ", on_cpu ? "auto or cpu" : "cuda", ", got ",
                backend_name(wanted), ", which has no such operator");
  const TensorView x(input), w(weight);
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
  if (!on_cpu) {
    cuda_fused(kName, p, x, weight, bias, input_scale, input_shift, y, s, q);
    return {output, sum, sum_of_squares};
  }
  StencilHooks hooks;
  read_per_channel(input_scale, &hooks.scale, &hooks.scale_stride);
  read_per_channel(input_shift, &hooks.shift, &hooks.shift_stride);
  hooks.sum = s.mutable_data();
  hooks.sum_of_squares = q.mutable_data();
  StencilTensors tensors{x.data(), x.strides4(), w.data(), w.strides4(),     nullptr,
                         0,        nullptr,      {},       y.mutable_data(), y.strides4()};
  read_per_channel(bias, &tensors.bias, &tensors.bias_stride);
  check_memory(kName, stencil_cpu(p, plan, tensors, kParallel, hooks));
  return {output, sum, sum_of_squares};
}

namespace {

FusedResults depthwise_conv2d_fused(const Tensor& input, const Tensor& weight,
                                    const std::optional<Tensor>& bias,
                                    const std::optional<Tensor>& input_scale,
                                    const std::optional<Tensor>& input_shift,
                                    EFFKERN_GEOMETRY_PARAMETERS, int64_t activation,
                                    int64_t input_activation, int64_t sums, int64_t backend) {
  return run_depthwise_conv2d_fused(input, weight, bias, input_scale, input_shift, EFFKERN_GEOMETRY,
                                    activation, input_activation, sums, backend);
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

#ifdef EFFKERN_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(effkern, CUDA, m)
{
  m.impl("depthwise_conv2d_fused", TORCH_BOX(&depthwise_conv2d_fused));
  m.impl("_depthwise_conv2d_fused", TORCH_BOX(&depthwise_conv2d_fused));
}
#endif

}  // namespace effkern
