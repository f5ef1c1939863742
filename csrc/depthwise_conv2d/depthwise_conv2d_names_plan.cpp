// What plans call their kernels and backends, without torch.
#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

const char* kernel_name(Kernel kernel) {
  switch (kernel) {
    case Kernel::kEmpty:
      return "empty";
    case Kernel::kCpuDirectChannels:
      return "cpu_direct_channels";
    case Kernel::kCpuDirectRows:
      return "cpu_direct_rows";
    case Kernel::kCpuChannels:
      return "cpu_channels";
    case Kernel::kCpuTransposed:
      return "cpu_transposed";
    case Kernel::kCpuRows:
      return "cpu_rows";
    case Kernel::kCudaDirectChannelsLast:
      return "cuda_direct_channels_last";
    case Kernel::kCudaDirectContiguous:
      return "cuda_direct_contiguous";
    case Kernel::kCudaDirectStrided:
      return "cuda_direct_strided";
    case Kernel::kCudaToeplitz:
      return "cuda_toeplitz";
    case Kernel::kCudaWeightGradChannelsLast:
      return "cuda_weight_grad_channels_last";
    case Kernel::kCudaWeightGradContiguous:
      return "cuda_weight_grad_contiguous";
    case Kernel::kCudaWeightGradMma:
      return "cuda_weight_grad_mma";
    case Kernel::kCudaWeightGradStrided:
      return "cuda_weight_grad_strided";
    case Kernel::kTorch:
      return "aten::convolution";
  }
  return "?";
}

const char* backend_name(Backend backend) {
  static constexpr const char* kNames[kNumBackends] = {
      "auto", "cpu", "cuda", "triton", "torch", "cuda_emulated", "triton_interpreted"};
  return kNames[static_cast<int>(backend)];
}

}  // namespace effkern
