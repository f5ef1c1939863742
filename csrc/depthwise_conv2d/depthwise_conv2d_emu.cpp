// The CUDA kernels on CPU tensors, through the emulator: torch.ops.effkern_emulated. The kernels
// and their launches are those of depthwise_conv2d_cuda.h, whose .cu files are compiled beside this
// one by the host's compiler.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "depthwise_conv2d/depthwise_conv2d_fused.h"
#include "depthwise_conv2d/depthwise_conv2d_schema.h"
#include "emulation/emulator.h"

namespace effkern {
namespace {

using emulation::Buffer;

Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// From the first to the last element.
Buffer buffer_of(const char* name, const TensorView& tensor, bool writable) {
  int64_t elements = 1;
  for (int64_t i = 0; i < tensor.dim; ++i) {
    elements =
        tensor.sizes[i] && elements ? elements + (tensor.sizes[i] - 1) * tensor.strides[i] : 0;
  }
  const int64_t element = tensor.dtype == aoti_torch_dtype_float64()   ? 8
                          : tensor.dtype == aoti_torch_dtype_float32() ? 4
                                                                       : 2;
  return {tensor.data(), size_t(elements * element), name, writable};
}

void check(const char* op, const DepthwiseConv2dProblem& p, int error) {
  if (error == 0) return;
  fail(op, ": emulated CUDA error: ", cuda_error_string(error), ", at the launch for ", p.batch,
       "x", p.in_channels, "x", p.height, "x", p.width, ", kernel ", p.kernel_h, "x", p.kernel_w,
       ", stride ", p.stride_h, "x", p.stride_w);
}

void check_backend(const char* op, int64_t backend) {
  EFFKERN_CHECK(backend == int64_t(Backend::kCudaEmulated), op, ": backend: wanted cuda_emulated (",
                int(Backend::kCudaEmulated), "), got ", backend);
}

DepthwiseConv2dProblem on_emulated_device(DepthwiseConv2dProblem problem) {
  problem.device = DeviceType::kCuda;
  return problem;
}

size_t workspace_bytes(const DepthwiseConv2dProblem& p, Pass pass, const TensorView& input,
                       const TensorView& output) {
  return size_t(depthwise_conv2d_workspace_cuda(p, pass, input.data(), input.strides4(),
                                                output.data(), output.strides4()));
}

// Forward and, with `grad`, grad * activation'(forward).
Tensor run_forward(const char* op, const Tensor* grad, const Tensor& input, const Tensor& weight,
                   const std::optional<Tensor>& bias, const Geometry& geometry, int64_t activation,
                   int64_t backend) {
  const TensorView x(input), w(weight);
  std::optional<TensorView> b, g;
  if (bias) b.emplace(*bias);
  const DepthwiseConv2dProblem p = on_emulated_device(
      check_arguments(op, Pass::kForward, x, w, b ? &*b : nullptr, geometry, activation));
  if (grad) {
    g.emplace(*grad);
    check_grad_output(op, p, *g, x);
  }
  check_backend(op, backend);
  const Tensor output = empty(x, {p.batch, p.out_channels, p.out_height(), p.out_width()},
                              x.is_channels_last() || w.is_channels_last());
  const Tensor taps = dense(weight);
  const TensorView y(output), dense_weight(taps);
  std::vector<Buffer> buffers{buffer_of("input", x, false),
                              buffer_of("weight", dense_weight, false),
                              buffer_of("output", y, true)};
  std::optional<Tensor> offsets;
  const void* bias_data = nullptr;
  if (bias) {
    offsets = dense(*bias);
    buffers.push_back(buffer_of("bias", TensorView(*offsets), false));
    bias_data = buffers.back().begin;
  }
  if (g) buffers.push_back(buffer_of("grad_output", *g, false));
  const emulation::GuardedMemory workspace(workspace_bytes(p, Pass::kForward, x, y));
  buffers.push_back({workspace.data(), workspace.size(), "workspace", true});
  const emulation::DeclaredBuffers declared(buffers);
  check(
      op, p,
      g ? depthwise_conv2d_activation_backward_cuda(p, g->data(), g->strides4(), x.data(),
                                                    x.strides4(), dense_weight.data(), bias_data,
                                                    y.mutable_data(), y.strides4(), nullptr)
        : depthwise_conv2d_forward_cuda(p, x.data(), x.strides4(), dense_weight.data(), bias_data,
                                        y.mutable_data(), y.strides4(), workspace.data(), nullptr));
  return output;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients run_backward(const char* op, const Tensor& grad_output, const Tensor& input,
                       const Tensor& weight, const Geometry& geometry, const bool (&needs)[3],
                       int64_t backend) {
  const TensorView g(grad_output), x(input), w(weight);
  const DepthwiseConv2dProblem p = on_emulated_device(
      check_arguments(op, Pass::kGradInput, x, w, nullptr, geometry, /*activation=*/0));
  check_grad_output(op, p, g, x);
  check_backend(op, backend);
  const Tensor grad_input =
      needs[0] ? empty(x, {p.batch, p.in_channels, p.height, p.width}, x.is_channels_last())
               : empty(x, 0);
  const Tensor grad_weight =
      needs[1] ? empty(w, {p.out_channels, 1, p.kernel_h, p.kernel_w}, false) : empty(w, 0);
  const Tensor grad_bias = empty(w, needs[2] ? p.out_channels : 0);
  const Tensor taps = dense(weight);
  const TensorView dx(grad_input), db(grad_bias), dense_weight(taps);
  if (needs[0] && needs[1]) {
    const TensorView dw(grad_weight);
    const CudaGradients tensors{
        x.data(),      x.strides4(),        g.data(),
        g.strides4(),  dense_weight.data(), dx.mutable_data(),
        dx.strides4(), dw.mutable_data(),   needs[2] ? db.mutable_data() : nullptr};
    const int64_t bytes = depthwise_conv2d_gradients_workspace_cuda(p, tensors);
    if (bytes >= 0) {
      const emulation::GuardedMemory workspace{size_t(bytes)};
      const emulation::DeclaredBuffers declared(
          {buffer_of("input", x, false), buffer_of("grad_output", g, false),
           buffer_of("weight", dense_weight, false), buffer_of("grad_input", dx, true),
           buffer_of("grad_weight", dw, true), buffer_of("grad_bias", db, true),
           Buffer{workspace.data(), workspace.size(), "workspace", true}});
      check(op, p, depthwise_conv2d_gradients_cuda(p, tensors, workspace.data(), nullptr));
      return {grad_input, grad_weight, grad_bias};
    }
  }
  if (needs[0]) {
    const emulation::GuardedMemory workspace(workspace_bytes(p, Pass::kGradInput, dx, g));
    const emulation::DeclaredBuffers declared(
        {buffer_of("grad_output", g, false), buffer_of("weight", dense_weight, false),
         buffer_of("grad_input", dx, true),
         Buffer{workspace.data(), workspace.size(), "workspace", true}});
    check(op, p,
          depthwise_conv2d_grad_input_cuda(p, g.data(), g.strides4(), dense_weight.data(),
                                           dx.mutable_data(), dx.strides4(), workspace.data(),
                                           nullptr));
  }
  if (needs[1] || needs[2]) {
    // The kernel always writes the weight gradient.
    const Tensor written =
        needs[1] ? grad_weight : empty(w, {p.out_channels, 1, p.kernel_h, p.kernel_w}, false);
    const TensorView dw(written);
    const emulation::GuardedMemory workspace(workspace_bytes(p, Pass::kGradWeight, x, g));
    const emulation::DeclaredBuffers declared(
        {buffer_of("input", x, false), buffer_of("grad_output", g, false),
         buffer_of("grad_weight", dw, true), buffer_of("grad_bias", db, true),
         Buffer{workspace.data(), workspace.size(), "workspace", true}});
    check(op, p,
          depthwise_conv2d_grad_weight_cuda(
              p, x.data(), x.strides4(), g.data(), g.strides4(), dw.mutable_data(),
              needs[2] ? db.mutable_data() : nullptr, workspace.data(), nullptr));
  }
  return {grad_input, grad_weight, grad_bias};
}

FusedResults depthwise_conv2d_fused(const Tensor& input, const Tensor& weight,
                                    const std::optional<Tensor>& bias,
                                    const std::optional<Tensor>& input_scale,
                                    const std::optional<Tensor>& input_shift,
                                    EFFKERN_GEOMETRY_PARAMETERS, int64_t activation,
                                    int64_t input_activation, int64_t sums, int64_t backend) {
  const char* op = "effkern.depthwise_conv2d_fused";
  const DepthwiseConv2dProblem p = on_emulated_device(
      check_fused_arguments(op, input, weight, bias, input_scale, input_shift, EFFKERN_GEOMETRY,
                            activation, input_activation, sums));
  check_backend(op, backend);
  const TensorView x(input);
  const Tensor taps = dense(weight), sum = empty_sums(x, p, p.moments() > 0),
               sum_of_squares = empty_sums(x, p, p.moments() > 1),
               output = empty(x, {p.batch, p.out_channels, p.out_height(), p.out_width()},
                              x.is_channels_last() || TensorView(weight).is_channels_last());
  const TensorView y(output), w(taps), s(sum), q(sum_of_squares);
  if (p.output_numel() == 0) {
    EFFKERN_SHIM(aoti_torch_zero_(s.handle));
    EFFKERN_SHIM(aoti_torch_zero_(q.handle));
    return {output, sum, sum_of_squares};
  }
  const int64_t bytes =
      depthwise_conv2d_fused_workspace_cuda(p, x.data(), x.strides4(), y.data(), y.strides4());
  if (bytes < 0) fail_without_hooks(op, p);
  const emulation::GuardedMemory workspace{size_t(bytes)};
  std::vector<Buffer> buffers{buffer_of("input", x, false),
                              buffer_of("weight", w, false),
                              buffer_of("output", y, true),
                              buffer_of("sum", s, true),
                              buffer_of("sum_of_squares", q, true),
                              Buffer{workspace.data(), workspace.size(), "workspace", true}};
  std::optional<Tensor> vectors[3] = {bias, input_scale, input_shift};
  const void* data[3] = {};
  const char* names[3] = {"bias", "input_scale", "input_shift"};
  for (int i = 0; i < 3; ++i) {
    if (!vectors[i]) continue;
    vectors[i] = dense(*vectors[i]);
    data[i] = TensorView(*vectors[i]).data();
    buffers.push_back(buffer_of(names[i], TensorView(*vectors[i]), false));
  }
  const emulation::DeclaredBuffers declared(buffers);
  const CudaHooks hooks{static_cast<const float*>(data[1]), static_cast<const float*>(data[2]),
                        static_cast<float*>(s.mutable_data()),
                        static_cast<float*>(q.mutable_data()), workspace.data()};
  check(op, p,
        depthwise_conv2d_fused_cuda(p, x.data(), x.strides4(), w.data(), data[0], hooks,
                                    y.mutable_data(), y.strides4(), nullptr));
  return {output, sum, sum_of_squares};
}

Tensor depthwise_conv2d(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, EFFKERN_GEOMETRY_PARAMETERS,
                        int64_t activation, int64_t backend) {
  return run_forward("effkern.depthwise_conv2d", nullptr, input, weight, bias, EFFKERN_GEOMETRY,
                     activation, backend);
}

Tensor depthwise_conv2d_activation_backward(const Tensor& grad_output, const Tensor& input,
                                            const Tensor& weight, const std::optional<Tensor>& bias,
                                            EFFKERN_GEOMETRY_PARAMETERS, int64_t activation,
                                            int64_t backend) {
  return run_forward("effkern.depthwise_conv2d_activation_backward", &grad_output, input, weight,
                     bias, EFFKERN_GEOMETRY, activation, backend);
}

Gradients depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, EFFKERN_GEOMETRY_PARAMETERS,
                                    bool need_input, bool need_weight, bool need_bias,
                                    int64_t backend) {
  return run_backward("effkern.depthwise_conv2d_backward", grad_output, input, weight,
                      EFFKERN_GEOMETRY, {need_input, need_weight, need_bias}, backend);
}

}  // namespace

STABLE_TORCH_LIBRARY(effkern_emulated, m)
{
  define_depthwise_conv2d(m);
  m.def(EFFKERN_FUSED_SCHEMA);
  m.def("_" EFFKERN_FUSED_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern_emulated, CPU, m)
{
  implement_depthwise_conv2d(m, TORCH_BOX(&depthwise_conv2d), TORCH_BOX(&depthwise_conv2d_backward),
                             TORCH_BOX(&depthwise_conv2d_activation_backward));
  m.impl("depthwise_conv2d_fused", TORCH_BOX(&depthwise_conv2d_fused));
  m.impl("_depthwise_conv2d_fused", TORCH_BOX(&depthwise_conv2d_fused));
}

}  // namespace effkern
