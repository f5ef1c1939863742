// What the launchers make of a problem, without tensors or a device, for effkern.explain.
#include <cstdint>
#include <string>

#include "common/planned_launch.h"
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

namespace effkern {
namespace {

// Of a tensor in the problem's layout; a strided one has no neighbours.
Strides4 strides_of(const DepthwiseConv2dProblem& p, int64_t channels, int64_t height,
                    int64_t width) {
  if (p.layout == Layout::kChannelsLast) {
    return {height * width * channels, 1, width * channels, channels};
  }
  const int64_t step = p.layout == Layout::kStrided ? 2 : 1;
  return {step * channels * height * width, step * height * width, step * width, step};
}

int launch(const DepthwiseConv2dProblem& p) {
  // An address as allocators give it; nothing is read or written.
  void* const memory = reinterpret_cast<void*>(uintptr_t(1) << 20);
  const void* bias = p.has_bias ? memory : nullptr;
  const Strides4 input = strides_of(p, p.in_channels, p.height, p.width);
  const Strides4 output = strides_of(p, p.out_channels, p.out_height(), p.out_width());
  switch (p.pass) {
    case Pass::kForward:
      return depthwise_conv2d_forward_cuda(p, memory, input, memory, bias, memory, output, memory,
                                           nullptr);
    case Pass::kGradInput:
      return depthwise_conv2d_grad_input_cuda(p, memory, output, memory, memory, input, memory,
                                              nullptr);
    case Pass::kGradWeight:
      break;
  }
  return depthwise_conv2d_grad_weight_cuda(p, memory, input, memory, output, memory,
                                           p.has_bias ? memory : nullptr, memory, nullptr);
}

std::string json(const PlannedLaunches& planned) {
  std::string text = "[";
  for (int i = 0; i < planned.count; ++i) {
    const PlannedLaunch& one = planned.launches[i];
    text += std::string(i ? ", " : "") + "{\"kernel\": \"" + (one.kernel ? one.kernel : "") +
            "\", \"blocks\": " + std::to_string(one.blocks) +
            ", \"threads\": " + std::to_string(one.threads) +
            ", \"shared_memory\": " + std::to_string(one.shared_memory) + "}";
  }
  return text + "]";
}

}  // namespace
}  // namespace effkern

// For effkern/ops/depthwise_conv2d/cuda_plan.py: `n` is a problem in the order of the fields below,
// enumerations by number. The launches as a JSON array, valid until the thread's next call; null if
// the launchers refuse the problem.
extern "C" __attribute__((visibility("default"))) const char* effkern_planned_launches(
    const int64_t* n) {
  using namespace effkern;
  DepthwiseConv2dProblem p;
  p.device = DeviceType::kCuda;
  p.pass = Pass(n[0]), p.dtype = DType(n[1]), p.layout = Layout(n[2]);
  p.batch = n[3], p.in_channels = n[4], p.height = n[5], p.width = n[6], p.out_channels = n[7];
  p.kernel_h = n[8], p.kernel_w = n[9], p.stride_h = n[10], p.stride_w = n[11];
  p.pad_top = n[12], p.pad_bottom = n[13], p.pad_left = n[14], p.pad_right = n[15];
  p.dilation_h = n[16], p.dilation_w = n[17], p.has_bias = n[18] != 0;
  p.activation = Activation(n[19]);
  PlannedLaunches planned;
  const LaunchPlanner planner(&planned);
  if (launch(p) != 0) return nullptr;
  for (int i = 0; i < planned.count; ++i)
    if (planned.launches[i].blocks == 0) return nullptr;
  static thread_local std::string text;
  text = json(planned);
  return text.c_str();
}
