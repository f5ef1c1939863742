// Schemas of the depthwise_conv2d operators and their CPU kernels. Each operator has a twin with a
// leading underscore: the same function, which Python leaves without autograd for its lean path.
#include "depthwise_conv2d/depthwise_conv2d_op.h"

#include <tuple>

#include "common/cpu_isa.h"
#include "depthwise_conv2d/depthwise_conv2d_arguments.h"
#include "depthwise_conv2d/depthwise_conv2d_cpu.h"
#include "depthwise_conv2d/depthwise_conv2d_schema.h"

namespace effkern {
namespace {

void run_parallel(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*),
                  void* context) {
  EFFKERN_SHIM(torch_parallel_for(0, count, grain, body, context));
}

}  // namespace

const Parallel kParallel{&run_parallel};

CpuIsa cpu_isa() {
  static const char* error;
  static const CpuIsa isa = detect_cpu_isa(&error);
  EFFKERN_CHECK(!error, error);
  return isa;
}

void check_memory(const char* op, bool done) {
  EFFKERN_CHECK(done, op, ": not enough memory for the scratch space of a thread");
}

Tensor output_like(const TensorView& input, const TensorView& weight,
                   const DepthwiseConv2dProblem& p) {
  return empty(input, {p.batch, p.out_channels, p.out_height(), p.out_width()},
               input.is_channels_last() || weight.is_channels_last());
}

namespace {

constexpr char kForward[] = "effkern.depthwise_conv2d";
constexpr char kBackward[] = "effkern.depthwise_conv2d_backward";
constexpr char kActivationBackward[] = "effkern.depthwise_conv2d_activation_backward";

// Forward and grad * activation'(forward).
Tensor run_forward(const char* op, const Tensor* grad, const Tensor& input, const Tensor& weight,
                   const std::optional<Tensor>& bias, const Geometry& geometry, int64_t activation,
                   int64_t backend) {
  const TensorView x(input), w(weight);
  std::optional<TensorView> b, g;
  if (bias) b.emplace(*bias);
  const DepthwiseConv2dProblem p =
      check_arguments(op, Pass::kForward, x, w, b ? &*b : nullptr, geometry, activation);
  if (grad) {
    g.emplace(*grad);
    check_grad_output(op, p, *g, x);
  }
  const Backend wanted = check_backend(op, backend, p.device);
  const bool on_cpu = p.device == DeviceType::kCpu;
  const DepthwiseConv2dPlan plan =
      plan_depthwise_conv2d(p, wanted, on_cpu ? cpu_isa() : CpuIsa::kBaseline);
  if (plan.kernel == Kernel::kTorch) {
    return grad ? torch_activation_backward(*grad, input, weight, bias, geometry, p)
                : torch_forward(input, weight, bias, geometry, p);
  }
  const Tensor output = output_like(x, w, p);
  if (plan.kernel == Kernel::kEmpty) return output;
  const TensorView y(output);
  StencilTensors tensors{x.data(), x.strides4(), w.data(), w.strides4(),     nullptr,
                         0,        nullptr,      {},       y.mutable_data(), y.strides4()};
  if (b) tensors.bias = b->data(), tensors.bias_stride = b->strides[0];
  if (g) tensors.grad = g->data(), tensors.grad_strides = g->strides4();
  if (on_cpu) {
    check_memory(op, stencil_cpu(p, plan, tensors, kParallel));
  } else {
    cuda_forward(op, p, x, weight, bias, tensors);
  }
  return output;
}

}  // namespace

Tensor run_depthwise_conv2d(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Geometry& geometry,
                            int64_t activation, int64_t backend) {
  return run_forward(kForward, nullptr, input, weight, bias, geometry, activation, backend);
}

Gradients run_depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                        const Tensor& weight, const Geometry& geometry,
                                        const bool (&needs)[3], int64_t backend) {
  const char* op = kBackward;
  const TensorView g(grad_output), x(input), w(weight);
  DepthwiseConv2dProblem p =
      check_arguments(op, Pass::kGradInput, x, w, nullptr, geometry, /*activation=*/0);
  check_grad_output(op, p, g, x);
  const Backend wanted = check_backend(op, backend, p.device);
  const bool on_cpu = p.device == DeviceType::kCpu;
  const CpuIsa isa = on_cpu ? cpu_isa() : CpuIsa::kBaseline;
  DepthwiseConv2dPlan plan = plan_depthwise_conv2d(p, wanted, isa);
  if (plan.kernel == Kernel::kTorch) {
    return torch_backward(grad_output, input, weight, geometry, p, needs);
  }
  // What is not needed is an empty tensor: the stable ABI returns no undefined ones.
  const Tensor grad_input =
      needs[0] ? empty(x, {p.batch, p.in_channels, p.height, p.width}, x.is_channels_last())
               : empty(x, 0);
  const Tensor grad_weight =
      needs[1] ? empty(w, {p.out_channels, 1, p.kernel_h, p.kernel_w}, false) : empty(w, 0);
  const Tensor grad_bias = empty(w, needs[2] ? p.out_channels : 0);
  const TensorView dx(grad_input), dw(grad_weight), db(grad_bias);
  if (plan.kernel == Kernel::kEmpty) {
    if (needs[1]) EFFKERN_SHIM(aoti_torch_zero_(dw.handle));
    if (needs[2]) EFFKERN_SHIM(aoti_torch_zero_(db.handle));
    return {grad_input, grad_weight, grad_bias};
  }
  if (!on_cpu && needs[0] && needs[1]) {
    const CudaGradients tensors{
        x.data(),      x.strides4(),      g.data(),
        g.strides4(),  nullptr,           dx.mutable_data(),
        dx.strides4(), dw.mutable_data(), needs[2] ? db.mutable_data() : nullptr};
    if (cuda_gradients(op, p, x, weight, tensors)) return {grad_input, grad_weight, grad_bias};
  }
  if (needs[0]) {
    const StencilTensors tensors{
        g.data(), g.strides4(), w.data(), w.strides4(),      nullptr,
        0,        nullptr,      {},       dx.mutable_data(), dx.strides4()};
    if (on_cpu) {
      check_memory(op, stencil_cpu(p, plan, tensors, kParallel));
    } else {
      cuda_grad_input(op, p, x, weight, tensors);
    }
  }
  if (needs[1] || needs[2]) {
    p.pass = Pass::kGradWeight;
    plan = plan_depthwise_conv2d(p, wanted, isa);
    const WeightGradTensors tensors{x.data(),
                                    x.strides4(),
                                    g.data(),
                                    g.strides4(),
                                    needs[1] ? dw.mutable_data() : nullptr,
                                    needs[2] ? db.mutable_data() : nullptr};
    if (on_cpu) {
      check_memory(op, weight_grad_cpu(p, plan, tensors, kParallel));
    } else {
      cuda_grad_weight(op, p, x, tensors);
    }
  }
  return {grad_input, grad_weight, grad_bias};
}

namespace {

Tensor depthwise_conv2d(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, EFFKERN_GEOMETRY_PARAMETERS,
                        int64_t activation, int64_t backend) {
  return run_depthwise_conv2d(input, weight, bias, EFFKERN_GEOMETRY, activation, backend);
}

Tensor depthwise_conv2d_activation_backward(const Tensor& grad_output, const Tensor& input,
                                            const Tensor& weight, const std::optional<Tensor>& bias,
                                            EFFKERN_GEOMETRY_PARAMETERS, int64_t activation,
                                            int64_t backend) {
  return run_forward(kActivationBackward, &grad_output, input, weight, bias, EFFKERN_GEOMETRY,
                     activation, backend);
}

Gradients depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, EFFKERN_GEOMETRY_PARAMETERS,
                                    bool need_input, bool need_weight, bool need_bias,
                                    int64_t backend) {
  return run_depthwise_conv2d_backward(grad_output, input, weight, EFFKERN_GEOMETRY,
                                       {need_input, need_weight, need_bias}, backend);
}

}  // namespace

STABLE_TORCH_LIBRARY(effkern, m)
{
  define_depthwise_conv2d(m);
}

namespace {

void register_kernels(torch::stable::detail::StableLibrary& m) {
  implement_depthwise_conv2d(m, TORCH_BOX(&depthwise_conv2d), TORCH_BOX(&depthwise_conv2d_backward),
                             TORCH_BOX(&depthwise_conv2d_activation_backward));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  register_kernels(m);
}

#ifdef EFFKERN_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(effkern, CUDA, m)
{
  register_kernels(m);
}
#endif

}  // namespace effkern
