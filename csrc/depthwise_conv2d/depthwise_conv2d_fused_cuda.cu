// The forward with hooks of the CUDA backend: dtype dispatch, sums of all blocks.
#include "depthwise_conv2d/depthwise_conv2d_cuda.h"

#include "common/dtype.cuh"
#include "depthwise_conv2d/depthwise_conv2d_hooks_launch.cuh"

namespace effkern {
namespace {

// *served: whether there is a kernel; without, nothing is launched.
int run(const DepthwiseConv2dProblem& p, const void* input, const Strides4& input_strides,
        const void* weight, const void* bias, const CudaHooks& hooks, void* output,
        const Strides4& output_strides, void* stream, bool dry, bool* served, int64_t* parts) {
  return with_dtype(p.dtype, [&](auto tag) -> int {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, double>) {
      const Image4<const T> from{static_cast<const T*>(input), p.in_channels, p.height, p.width,
                                 input_strides};
      const Image4<T> to{static_cast<T*>(output), p.out_channels, p.out_height(), p.out_width(),
                         output_strides};
      const Hooked<T> hooked{{static_cast<const T*>(bias), p.activation},
                             hooks.scale,
                             hooks.shift,
                             p.input_activation,
                             p.has_prologue,
                             int(p.moments()),
                             0,
                             static_cast<float*>(hooks.workspace)};
      cudaError_t error = cudaSuccess;
      *served = launch_fused(p, from, static_cast<const T*>(weight), to, hooked, parts, dry,
                             static_cast<cudaStream_t>(stream), &error);
      return error;
    }
    *served = false;
    return 0;
  });
}

}  // namespace

int64_t depthwise_conv2d_fused_workspace_cuda(const DepthwiseConv2dProblem& problem,
                                              const void* input, const Strides4& input_strides,
                                              const void* output, const Strides4& output_strides) {
  bool served = false;
  int64_t parts = 0;
  run(problem, input, input_strides, nullptr, nullptr, {}, const_cast<void*>(output),
      output_strides, nullptr, true, &served, &parts);
  if (!served) return -1;
  return problem.batch * parts * problem.moments() * problem.out_channels * int64_t(sizeof(float));
}

int depthwise_conv2d_fused_cuda(const DepthwiseConv2dProblem& problem, const void* input,
                                const Strides4& input_strides, const void* weight, const void* bias,
                                const CudaHooks& hooks, void* output,
                                const Strides4& output_strides, void* stream) {
  bool served = false;
  int64_t parts = 0;
  const int error = run(problem, input, input_strides, weight, bias, hooks, output, output_strides,
                        stream, false, &served, &parts);
  if (error || !served) return error ? error : int(cudaErrorInvalidValue);
  if (problem.moments() == 0) return 0;
  const bool spatial = problem.sums == Sums::kSpatial;
  const int64_t groups = spatial ? problem.batch : 1;
  const int64_t blocks = groups * ceil_div(problem.out_channels, kSumsChannels);
  return launch_kernel(depthwise_conv2d_sums_reduce_kernel<float>, grid_of(blocks),
                       dim3(kSumsChannels * kSumsRows), 0, static_cast<cudaStream_t>(stream),
                       static_cast<const float*>(hooks.workspace), hooks.sum, hooks.sum_of_squares,
                       spatial ? parts : parts * problem.batch, int(problem.moments()),
                       int(problem.out_channels));
}

}  // namespace effkern
