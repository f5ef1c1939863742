// The operator pointwise on CUDA tensors, for other operators' use. Where there is no kernel, they
// compose the same of torch's operators.
#include "pointwise/pointwise_cuda_arguments.h"

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def(EFFKERN_POINTWISE_CUDA_SCHEMA);
}

#ifdef EFFKERN_WITH_CUDA

#include <torch/csrc/stable/accelerator.h>

// Null on a PyTorch without CUDA: the library loads there all the same.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace effkern {
namespace {

constexpr char kName[] = "effkern.pointwise";

Tensor pointwise(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                 const std::optional<Tensor>& gate, const std::optional<Tensor>& scale,
                 const std::optional<Tensor>& residual, int64_t activation, int64_t backend) {
  EFFKERN_CHECK(backend == int64_t(Backend::kAuto) || backend == int64_t(Backend::kCuda), kName,
                ": backend: wanted auto (0) or cuda (2), got ", backend);
  const PointwiseCudaArguments arguments{input, weight, bias, gate, scale, residual, activation};
  PointwiseCudaCall call = check_pointwise_cuda(kName, arguments);
  const int32_t device = TensorView(input).device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EFFKERN_CHECK(aoti_torch_get_current_cuda_stream, kName,
                ": input: wanted a PyTorch with CUDA for cuda tensors, got one without");
  void* stream;
  EFFKERN_SHIM(aoti_torch_get_current_cuda_stream(device, &stream));
  const Tensor output = pointwise_cuda_output(arguments, &call);
  check_pointwise_cuda_launch(kName, call.problem,
                              pointwise_cuda(call.problem, call.tensors, stream));
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(effkern, CUDA, m)
{
  m.impl("pointwise", TORCH_BOX(&pointwise));
}

}  // namespace effkern

#endif
