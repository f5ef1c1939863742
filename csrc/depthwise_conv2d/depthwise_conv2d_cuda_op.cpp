// The CUDA kernels on torch's current stream; host code without CUDA's headers.
#include "depthwise_conv2d/depthwise_conv2d_fused.h"
#include "depthwise_conv2d/depthwise_conv2d_op.h"

#ifdef EFFKERN_WITH_CUDA

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

// Null on a PyTorch without CUDA: the library loads there all the same.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace effkern {
namespace {

void* current_stream(const char* op, const TensorView& tensor) {
  EFFKERN_CHECK(aoti_torch_get_current_cuda_stream, op,
                ": input: wanted a PyTorch with CUDA for cuda tensors, got one without");
  void* stream;
  EFFKERN_SHIM(aoti_torch_get_current_cuda_stream(tensor.device_index(), &stream));
  return stream;
}

void check_launch(const char* op, const DepthwiseConv2dProblem& p, int error) {
  if (__builtin_expect(error == 0, 1)) return;
  fail(op, ": CUDA error: ", cuda_error_string(error), " at the launch for ", p.batch, "x",
       p.in_channels, "x", p.height, "x", p.width, ", kernel ", p.kernel_h, "x", p.kernel_w,
       ", stride ", p.stride_h, "x", p.stride_w);
}

// The kernels want dense weights; a copy of these is small beside the images.
Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// What a pass wants of torch's caching allocator, which knows the stream; often nothing.
class Workspace {
 public:
  Workspace(const DepthwiseConv2dProblem& p, Pass pass, const TensorView& like, const void* input,
            const Strides4& input_strides, const void* output, const Strides4& output_strides) {
    const int64_t bytes =
        depthwise_conv2d_workspace_cuda(p, pass, input, input_strides, output, output_strides);
    if (bytes > 0) memory_ = empty(like, bytes / element_size(p.dtype) + 1);
  }
  void* data() const { return memory_ ? TensorView(*memory_).mutable_data() : nullptr; }

 private:
  std::optional<Tensor> memory_;
};

}  // namespace

void cuda_forward(const char* op, const DepthwiseConv2dProblem& p, const TensorView& input,
                  const Tensor& weight, const std::optional<Tensor>& bias,
                  const StencilTensors& t) {
  const torch::stable::accelerator::DeviceGuard guard(input.device_index());
  void* stream = current_stream(op, input);
  const Tensor w = dense(weight);
  std::optional<Tensor> b;
  if (bias) b = dense(*bias);
  const void* bias_data = b ? TensorView(*b).data() : nullptr;
  const void* weight_data = TensorView(w).data();
  if (t.grad) {
    return check_launch(op, p,
                        depthwise_conv2d_activation_backward_cuda(
                            p, t.grad, t.grad_strides, t.source, t.source_strides, weight_data,
                            bias_data, t.output, t.output_strides, stream));
  }
  const Workspace workspace(p, Pass::kForward, input, t.source, t.source_strides, t.output,
                            t.output_strides);
  check_launch(op, p,
               depthwise_conv2d_forward_cuda(p, t.source, t.source_strides, weight_data, bias_data,
                                             t.output, t.output_strides, workspace.data(), stream));
}

void cuda_fused(const char* op, const DepthwiseConv2dProblem& p, const TensorView& input,
                const Tensor& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& input_scale, const std::optional<Tensor>& input_shift,
                const TensorView& output, const TensorView& sum, const TensorView& sum_of_squares) {
  const torch::stable::accelerator::DeviceGuard guard(input.device_index());
  const Tensor w = dense(weight);
  // In the order of the kernel's arguments; they live until it is enqueued.
  std::optional<Tensor> vectors[3] = {bias, input_scale, input_shift};
  const void* data[3] = {};
  for (int i = 0; i < 3; ++i) {
    if (!vectors[i]) continue;
    vectors[i] = dense(*vectors[i]);
    data[i] = TensorView(*vectors[i]).data();
  }
  const int64_t bytes = depthwise_conv2d_fused_workspace_cuda(p, input.data(), input.strides4(),
                                                              output.data(), output.strides4());
  if (bytes < 0) fail_without_hooks(op, p);
  // From torch's caching allocator, which knows the stream.
  const Tensor workspace = empty(input, bytes / element_size(p.dtype));
  const CudaHooks hooks{static_cast<const float*>(data[1]), static_cast<const float*>(data[2]),
                        static_cast<float*>(sum.mutable_data()),
                        static_cast<float*>(sum_of_squares.mutable_data()),
                        TensorView(workspace).mutable_data()};
  check_launch(op, p,
               depthwise_conv2d_fused_cuda(p, input.data(), input.strides4(), TensorView(w).data(),
                                           data[0], hooks, output.mutable_data(), output.strides4(),
                                           current_stream(op, input)));
}

bool cuda_gradients(const char* op, const DepthwiseConv2dProblem& p, const TensorView& input,
                    const Tensor& weight, CudaGradients t) {
  const torch::stable::accelerator::DeviceGuard guard(input.device_index());
  const int64_t bytes = depthwise_conv2d_gradients_workspace_cuda(p, t);
  if (bytes < 0) return false;
  const Tensor w = dense(weight);
  t.weight = TensorView(w).data();
  const Tensor workspace = empty(input, bytes / element_size(p.dtype) + 1);
  check_launch(op, p,
               depthwise_conv2d_gradients_cuda(p, t, TensorView(workspace).mutable_data(),
                                               current_stream(op, input)));
  return true;
}

void cuda_grad_input(const char* op, const DepthwiseConv2dProblem& p, const TensorView& input,
                     const Tensor& weight, const StencilTensors& t) {
  const torch::stable::accelerator::DeviceGuard guard(input.device_index());
  const Tensor w = dense(weight);
  const Workspace workspace(p, Pass::kGradInput, input, t.output, t.output_strides, t.source,
                            t.source_strides);
  check_launch(op, p,
               depthwise_conv2d_grad_input_cuda(p, t.source, t.source_strides, TensorView(w).data(),
                                                t.output, t.output_strides, workspace.data(),
                                                current_stream(op, input)));
}

void cuda_grad_weight(const char* op, const DepthwiseConv2dProblem& p, const TensorView& input,
                      const WeightGradTensors& t) {
  const torch::stable::accelerator::DeviceGuard guard(input.device_index());
  const Workspace workspace(p, Pass::kGradWeight, input, t.input, t.input_strides, t.grad,
                            t.grad_strides);
  // The kernel always writes the weight gradient.
  std::optional<Tensor> unused;
  if (!t.grad_weight) unused = empty(input, p.out_channels * p.taps());
  check_launch(
      op, p,
      depthwise_conv2d_grad_weight_cuda(p, t.input, t.input_strides, t.grad, t.grad_strides,
                                        unused ? TensorView(*unused).mutable_data() : t.grad_weight,
                                        t.grad_bias, workspace.data(), current_stream(op, input)));
}

}  // namespace effkern

#else

// Never called: the operators are then not registered for CUDA tensors.
namespace effkern {

void cuda_forward(const char* op, const DepthwiseConv2dProblem&, const TensorView&, const Tensor&,
                  const std::optional<Tensor>&, const StencilTensors&) {
  fail(op, ": effkern was built without CUDA");
}
void cuda_fused(const char* op, const DepthwiseConv2dProblem&, const TensorView&, const Tensor&,
                const std::optional<Tensor>&, const std::optional<Tensor>&,
                const std::optional<Tensor>&, const TensorView&, const TensorView&,
                const TensorView&) {
  fail(op, ": effkern was built without CUDA");
}
bool cuda_gradients(const char* op, const DepthwiseConv2dProblem&, const TensorView&, const Tensor&,
                    CudaGradients) {
  fail(op, ": effkern was built without CUDA");
}
void cuda_grad_input(const char* op, const DepthwiseConv2dProblem&, const TensorView&,
                     const Tensor&, const StencilTensors&) {
  fail(op, ": effkern was built without CUDA");
}
void cuda_grad_weight(const char* op, const DepthwiseConv2dProblem&, const TensorView&,
                      const WeightGradTensors&) {
  fail(op, ": effkern was built without CUDA");
}

}  // namespace effkern

#endif
