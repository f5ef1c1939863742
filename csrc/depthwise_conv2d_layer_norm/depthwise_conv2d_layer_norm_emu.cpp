// The CUDA kernel on CPU tensors, through the emulator: torch.ops.effkern_emulated.
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_arguments.h"
#include "emulation/emulator.h"

namespace effkern {
namespace {

constexpr char kName[] = "effkern.depthwise_conv2d_layer_norm";

DepthwiseConv2dLayerNormResults depthwise_conv2d_layer_norm_forward(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, double eps,
    int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right, bool save_statistics,
    int64_t backend) {
  EFFKERN_CHECK(backend == int64_t(Backend::kCudaEmulated), kName,
                ": backend: wanted cuda_emulated (", int(Backend::kCudaEmulated), "), got ",
                backend);
  const DepthwiseConv2dLayerNormCudaArguments arguments{
      input,   weight,     bias,     norm_weight, norm_bias,      eps,
      pad_top, pad_bottom, pad_left, pad_right,   save_statistics};
  DepthwiseConv2dLayerNormCudaCall call = check_depthwise_conv2d_layer_norm_cuda(kName, arguments);
  DepthwiseConv2dLayerNormResults results =
      depthwise_conv2d_layer_norm_cuda_results(arguments, &call);
  const DepthwiseConv2dLayerNormCudaProblem& p = call.problem;
  const DepthwiseConv2dLayerNormCudaPointers& t = call.tensors;
  const int64_t element = p.dtype == DType::kFloat32 ? 4 : 2;
  const int64_t pixels = p.batch * p.out_height() * p.out_width();
  std::vector<emulation::Buffer> buffers;
  const auto declare = [&](const char* name, const void* data, int64_t bytes, bool written) {
    if (data) buffers.push_back({data, size_t(bytes), name, written});
  };
  declare("input", t.input, element * p.batch * p.height * p.width * p.channels, false);
  declare("weight", t.weight, element * p.channels * p.kernel_h * p.kernel_w, false);
  declare("bias", t.bias, element * p.channels, false);
  declare("norm_weight", t.norm_weight, 4 * p.channels, false);
  declare("norm_bias", t.norm_bias, 4 * p.channels, false);
  declare("output", t.output, element * pixels * p.channels, true);
  declare("mean", t.mean, 4 * pixels, true);
  declare("rstd", t.rstd, 4 * pixels, true);
  const emulation::DeclaredBuffers declared(buffers);
  check_depthwise_conv2d_layer_norm_launch(
      kName, p, depthwise_conv2d_layer_norm_cuda(p, t, float(eps), nullptr));
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern_emulated, m)
{
  m.def(EFFKERN_LAYER_NORM_CUDA_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern_emulated, CPU, m)
{
  m.impl("depthwise_conv2d_layer_norm_forward", TORCH_BOX(&depthwise_conv2d_layer_norm_forward));
}

}  // namespace effkern
