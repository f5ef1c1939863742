// The operator fused_mbconv on CUDA tensors. Where there is no kernel, effkern/ops/fused_mbconv
// composes the block of torch's operators instead.
#include "fused_mbconv/fused_mbconv_arguments.h"

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_FUSED_MBCONV_SCHEMA);
}

#ifdef EFFKERN_WITH_CUDA

#include <torch/csrc/stable/accelerator.h>

// Null on a PyTorch without CUDA: the library loads there all the same.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace effkern {
namespace {

constexpr char kName[] = "effkern.fused_mbconv";

Tensor fused_mbconv(const Tensor& input, const Tensor& expand_weight,
                    const std::optional<Tensor>& expand_bias,
                    const std::optional<Tensor>& project_weight,
                    const std::optional<Tensor>& project_bias,
                    const std::optional<Tensor>& project_scale,
                    const std::optional<Tensor>& residual, int64_t stride_h, int64_t stride_w,
                    int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right,
                    int64_t activation, int64_t backend) {
  EFFKERN_CHECK(backend == int64_t(Backend::kAuto) || backend == int64_t(Backend::kCuda), kName,
                ": backend: wanted auto (0) or cuda (2), got ", backend);
  const FusedMBConvArguments arguments{input,        expand_weight, expand_bias, project_weight,
                                       project_bias, project_scale, residual,    stride_h,
                                       stride_w,     pad_top,       pad_bottom,  pad_left,
                                       pad_right,    activation};
  FusedMBConvCall call = check_fused_mbconv(kName, arguments);
  const int32_t device = TensorView(input).device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EFFKERN_CHECK(aoti_torch_get_current_cuda_stream, kName,
                ": input: wanted a PyTorch with CUDA for cuda tensors, got one without");
  void* stream;
  EFFKERN_SHIM(aoti_torch_get_current_cuda_stream(device, &stream));
  const Tensor output = fused_mbconv_output(arguments, call.problem);
  call.tensors.output = TensorView(output).mutable_data();
  check_fused_mbconv_launch(kName, call.problem,
                            fused_mbconv_cuda(call.problem, call.tensors, stream));
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effkern, CUDA, m)
{
  m.impl("fused_mbconv", TORCH_BOX(&fused_mbconv));
}

}  // namespace effkern

#endif
