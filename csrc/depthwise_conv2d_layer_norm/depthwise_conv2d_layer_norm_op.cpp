// depthwise_conv2d_layer_norm on CPU: schemas, argument checks, float32 copies of 16-bit tensors
// where the plan wants them.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "depthwise_conv2d/depthwise_conv2d_op.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu.h"

// The convolution has stride 1 and dilation 1. `norm_weight`, `norm_bias`, `mean`, `rstd` and their
// gradients are in the accumulation type; mean and rstd are (N, H', W').
#define EFFKERN_LAYER_NORM_SCHEMA                                                                \
  "depthwise_conv2d_layer_norm(Tensor input, Tensor weight, Tensor? bias, Tensor? norm_weight, " \
  "Tensor? norm_bias, float eps, SymInt pad_top, SymInt pad_bottom, SymInt pad_left, SymInt "    \
  "pad_right) -> (Tensor output, Tensor mean, Tensor rstd)"
// The gradient of the convolution's result, and those of norm_weight and norm_bias.
#define EFFKERN_LAYER_NORM_BACKWARD_SCHEMA                                                         \
  "depthwise_conv2d_layer_norm_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor? " \
  "bias, Tensor? norm_weight, Tensor mean, Tensor rstd, SymInt pad_top, SymInt pad_bottom, "       \
  "SymInt pad_left, SymInt pad_right) -> (Tensor grad_convolution, Tensor grad_norm_weight, "      \
  "Tensor grad_norm_bias)"

namespace effkern {
namespace {

constexpr char kForward[] = "effkern.depthwise_conv2d_layer_norm";
constexpr char kBackward[] = "effkern.depthwise_conv2d_layer_norm_backward";

using Results = std::tuple<Tensor, Tensor, Tensor>;

Tensor empty_accumulator(const TensorView& like, const DepthwiseConv2dProblem& p, int64_t dim,
                         const int64_t* sizes, const int64_t* strides) {
  AtenTensorHandle handle;
  EFFKERN_SHIM(aoti_torch_empty_strided(dim, sizes, strides, accumulation_dtype(p),
                                        like.device_type, like.device_index(), &handle));
  return Tensor(handle);
}

Tensor empty_per_channel(const TensorView& like, const DepthwiseConv2dProblem& p) {
  const int64_t stride = 1;
  return empty_accumulator(like, p, 1, &p.out_channels, &stride);
}

Tensor empty_per_pixel(const TensorView& like, const DepthwiseConv2dProblem& p) {
  const int64_t h = p.out_height(), w = p.out_width();
  const int64_t sizes[] = {p.batch, h, w}, strides[] = {h * w, w, 1};
  return empty_accumulator(like, p, 3, sizes, strides);
}

// Contiguous; ones or zeros if there is no such tensor.
Tensor per_channel(const char* op, const char* name, const std::optional<Tensor>& tensor,
                   const TensorView& like, const DepthwiseConv2dProblem& p, double otherwise) {
  if (!tensor) {
    Tensor filled = empty_per_channel(like, p);
    return torch::stable::fill_(filled, otherwise);
  }
  check_per_channel(op, name, p, p.out_channels, TensorView(*tensor));
  return torch::stable::contiguous(*tensor);
}

void check_per_pixel(const char* name, const TensorView& view, const DepthwiseConv2dProblem& p) {
  const int64_t h = p.out_height(), w = p.out_width();
  EFFKERN_CHECK(view.dim == 3 && view.sizes[0] == p.batch && view.sizes[1] == h &&
                    view.sizes[2] == w && view.dtype == accumulation_dtype(p) &&
                    view.device_type == aoti_torch_device_type_cpu(),
                kBackward, ": ", name, ": wanted (", p.batch, ", ", h, ", ", w, ") ",
                dtype_name(accumulation_dtype(p)), " on cpu, got ", view.shape(), " ",
                dtype_name(view.dtype));
}

Tensor converted(const Tensor& tensor, torch::headeronly::ScalarType dtype) {
  return torch::stable::to(tensor, dtype);
}

// A call in the dtype in which it runs: the tensors, and float32 copies where the plan wants them.
struct Call {
  DepthwiseConv2dProblem problem;
  DepthwiseConv2dLayerNormPlan plan;
  Tensor input, weight;
  std::optional<Tensor> bias;
  // Two passes over float32 copies: what is computed is converted to the tensors' dtype.
  bool copies;
  Tensor output;
};

Call prepare(const char* op, const Tensor& input, const Tensor& weight,
             const std::optional<Tensor>& bias, const Geometry& geometry) {
  const TensorView x(input), w(weight);
  std::optional<TensorView> b;
  if (bias) b.emplace(*bias);
  DepthwiseConv2dProblem p = check_arguments(op, Pass::kForward, x, w, b ? &*b : nullptr, geometry,
                                             /*activation=*/0);
  EFFKERN_CHECK(p.device == DeviceType::kCpu, op, ": input: wanted a tensor on cpu");
  const Tensor output = output_like(x, w, p);
  if (x.strides[1] != 1 || TensorView(output).strides[1] != 1) {
    if (p.layout == Layout::kChannelsLast) p.layout = Layout::kStrided;
  }
  Call call{p, plan_depthwise_conv2d_layer_norm(p, cpu_isa()), input, weight, bias, false, output};
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  call.copies = half && !call.plan.one_pass;
  if (!half) return call;
  constexpr auto kFloat = torch::headeronly::ScalarType::Float;
  call.weight = converted(weight, kFloat);
  if (bias) call.bias = converted(*bias, kFloat);
  if (call.copies) {
    call.input = converted(input, kFloat);
    call.output = output_like(TensorView(call.input), w, call.plan.problem);
  }
  return call;
}

StencilTensors stencil_tensors(const Call& call) {
  const TensorView x(call.input), w(call.weight), y(call.output);
  StencilTensors tensors{x.data(), x.strides4(), w.data(), w.strides4(),     nullptr,
                         0,        nullptr,      {},       y.mutable_data(), y.strides4()};
  if (call.bias) {
    const TensorView b(*call.bias);
    tensors.bias = b.data(), tensors.bias_stride = b.strides[0];
  }
  return tensors;
}

LayerNormTask layer_norm_task(const Call& call, const Tensor& norm_weight, const Tensor& norm_bias,
                              double eps, void* mean, void* rstd) {
  const DepthwiseConv2dProblem& p = call.problem;
  LayerNormTask task;
  task.plan = call.plan;
  task.dtype = call.copies ? call.plan.problem.dtype : p.dtype;
  task.batch = p.batch;
  task.channels = p.out_channels;
  task.pixels = p.out_height() * p.out_width();
  task.weight = TensorView(norm_weight).data();
  task.bias = TensorView(norm_bias).data();
  task.eps = eps;
  task.mean = mean;
  task.rstd = rstd;
  task.partial = nullptr;
  task.grad_output = nullptr;
  task.output = TensorView(call.output).mutable_data();
  task.source = TensorView(call.input).data();
  return task;
}

// `grad_output` in the format and the dtype of the kernels.
Tensor like_output(const Call& call, const Tensor& grad_output) {
  const TensorView grad(grad_output), output(call.output);
  if (grad.dtype == output.dtype && std::equal(grad.strides, grad.strides + 4, output.strides)) {
    return grad_output;
  }
  Tensor copy = torch::stable::empty_like(call.output);
  return torch::stable::copy_(copy, grad_output);
}

// What was computed, in the dtype of the tensors.
Tensor finished(const Call& call, const Tensor& like) {
  if (!call.copies) return call.output;
  return converted(call.output, like.scalar_type());
}

Results depthwise_conv2d_layer_norm(const Tensor& input, const Tensor& weight,
                                    const std::optional<Tensor>& bias,
                                    const std::optional<Tensor>& norm_weight,
                                    const std::optional<Tensor>& norm_bias, double eps,
                                    int64_t pad_top, int64_t pad_bottom, int64_t pad_left,
                                    int64_t pad_right) {
  const Geometry geometry{1, 1, pad_top, pad_bottom, pad_left, pad_right, 1, 1};
  const Call call = prepare(kForward, input, weight, bias, geometry);
  const TensorView x(input);
  const Tensor scale = per_channel(kForward, "norm_weight", norm_weight, x, call.problem, 1);
  const Tensor shift = per_channel(kForward, "norm_bias", norm_bias, x, call.problem, 0);
  const Tensor mean = empty_per_pixel(x, call.problem), rstd = empty_per_pixel(x, call.problem);
  if (call.plan.convolution.kernel != Kernel::kEmpty) {
    const LayerNormTask task = layer_norm_task(
        call, scale, shift, eps, TensorView(mean).mutable_data(), TensorView(rstd).mutable_data());
    check_memory(kForward, layer_norm_cpu(task, cpu_isa(), stencil_tensors(call), kParallel));
  }
  return {finished(call, input), mean, rstd};
}

Results depthwise_conv2d_layer_norm_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& norm_weight, const Tensor& mean,
    const Tensor& rstd, int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right) {
  const Geometry geometry{1, 1, pad_top, pad_bottom, pad_left, pad_right, 1, 1};
  const Call call = prepare(kBackward, input, weight, bias, geometry);
  const TensorView x(input);
  check_grad_output(kBackward, call.problem, TensorView(grad_output), x);
  const Tensor scale = per_channel(kBackward, "norm_weight", norm_weight, x, call.problem, 1);
  const Tensor means = torch::stable::contiguous(mean), rstds = torch::stable::contiguous(rstd);
  check_per_pixel("mean", TensorView(means), call.problem);
  check_per_pixel("rstd", TensorView(rstds), call.problem);
  const Tensor grad_weight = empty_per_channel(x, call.problem);
  const Tensor grad_bias = empty_per_channel(x, call.problem);
  if (call.plan.convolution.kernel == Kernel::kEmpty) {
    EFFKERN_SHIM(aoti_torch_zero_(grad_weight.get()));
    EFFKERN_SHIM(aoti_torch_zero_(grad_bias.get()));
    return {finished(call, input), grad_weight, grad_bias};
  }
  const Tensor grad = like_output(call, grad_output);
  LayerNormTask task =
      layer_norm_task(call, scale, scale, 0, const_cast<void*>(TensorView(means).data()),
                      const_cast<void*>(TensorView(rstds).data()));
  task.grad_output = TensorView(grad).data();
  check_memory(kBackward, layer_norm_backward_cpu(task, cpu_isa(), stencil_tensors(call),
                                                  TensorView(grad_weight).mutable_data(),
                                                  TensorView(grad_bias).mutable_data(), kParallel));
  return {finished(call, input), grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  for (const char* schema :
       {EFFKERN_LAYER_NORM_SCHEMA, "_" EFFKERN_LAYER_NORM_SCHEMA,
        EFFKERN_LAYER_NORM_BACKWARD_SCHEMA, "_" EFFKERN_LAYER_NORM_BACKWARD_SCHEMA}) {
    m.def(schema);
  }
}

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  m.impl("depthwise_conv2d_layer_norm", TORCH_BOX(&depthwise_conv2d_layer_norm));
  m.impl("_depthwise_conv2d_layer_norm", TORCH_BOX(&depthwise_conv2d_layer_norm));
  m.impl("depthwise_conv2d_layer_norm_backward", TORCH_BOX(&depthwise_conv2d_layer_norm_backward));
  m.impl("_depthwise_conv2d_layer_norm_backward", TORCH_BOX(&depthwise_conv2d_layer_norm_backward));
}

}  // namespace effkern
