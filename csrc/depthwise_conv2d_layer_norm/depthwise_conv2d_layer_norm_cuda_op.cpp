// The operator depthwise_conv2d_layer_norm_forward on CUDA tensors. Where there is no kernel,
// effkern/ops/depthwise_conv2d_layer_norm composes the same of other operators.
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_arguments.h"

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_LAYER_NORM_CUDA_SCHEMA);
}

#ifdef EFFKERN_WITH_CUDA

#include <torch/csrc/stable/accelerator.h>

// Null on a PyTorch without CUDA: the library loads there all the same.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace effkern {
namespace {

constexpr char kName[] = "effkern.depthwise_conv2d_layer_norm";

DepthwiseConv2dLayerNormResults depthwise_conv2d_layer_norm_forward(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, double eps,
    int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right, bool save_statistics,
    int64_t backend) {
  EFFKERN_CHECK(backend == int64_t(Backend::kAuto) || backend == int64_t(Backend::kCuda), kName,
                ": backend: wanted auto (0) or cuda (2), got ", backend);
  const DepthwiseConv2dLayerNormCudaArguments arguments{
      input,   weight,     bias,     norm_weight, norm_bias,      eps,
      pad_top, pad_bottom, pad_left, pad_right,   save_statistics};
  DepthwiseConv2dLayerNormCudaCall call = check_depthwise_conv2d_layer_norm_cuda(kName, arguments);
  const int32_t device = TensorView(input).device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EFFKERN_CHECK(aoti_torch_get_current_cuda_stream, kName,
                ": input: wanted a PyTorch with CUDA for cuda tensors, got one without");
  void* stream;
  EFFKERN_SHIM(aoti_torch_get_current_cuda_stream(device, &stream));
  DepthwiseConv2dLayerNormResults results =
      depthwise_conv2d_layer_norm_cuda_results(arguments, &call);
  check_depthwise_conv2d_layer_norm_launch(
      kName, call.problem,
      depthwise_conv2d_layer_norm_cuda(call.problem, call.tensors, float(eps), stream));
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effkern, CUDA, m)
{
  m.impl("depthwise_conv2d_layer_norm_forward", TORCH_BOX(&depthwise_conv2d_layer_norm_forward));
}

}  // namespace effkern

#endif
