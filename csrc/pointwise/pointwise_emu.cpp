// The CUDA kernel on CPU tensors, through the emulator: torch.ops.effkern_emulated.
#include "emulation/emulator.h"
#include "pointwise/pointwise_cuda_arguments.h"

namespace effkern {
namespace {

constexpr char kName[] = "effkern.pointwise";

Tensor pointwise(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                 const std::optional<Tensor>& gate, const std::optional<Tensor>& scale,
                 const std::optional<Tensor>& residual, int64_t activation, int64_t backend) {
  EFFKERN_CHECK(backend == int64_t(Backend::kCudaEmulated), kName,
                ": backend: wanted cuda_emulated (", int(Backend::kCudaEmulated), "), got ",
                backend);
  const PointwiseCudaArguments arguments{input, weight, bias, gate, scale, residual, activation};
  PointwiseCudaCall call = check_pointwise_cuda(kName, arguments);
  const Tensor output = pointwise_cuda_output(arguments, &call);
  const PointwiseCudaProblem& p = call.problem;
  const PointwiseCudaPointers& t = call.tensors;
  const int64_t pixels = p.images * p.pixels;
  std::vector<emulation::Buffer> buffers;
  const auto declare = [&](const char* name, const void* data, int64_t elements) {
    if (data) buffers.push_back({data, size_t(2 * elements), name, data == t.output});
  };
  declare("input", t.input, pixels * p.in_channels);
  declare("weight", t.weight, p.out_channels * p.in_channels);
  declare("bias", t.bias, p.out_channels);
  declare("gate", t.gate, p.images * p.in_channels);
  declare("scale", t.scale, p.out_channels);
  // The residual may be the input.
  if (t.residual != t.input) declare("residual", t.residual, pixels * p.out_channels);
  declare("output", t.output, pixels * p.out_channels);
  const emulation::DeclaredBuffers declared(buffers);
  check_pointwise_cuda_launch(kName, p, pointwise_cuda(p, t, nullptr));
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern_emulated, m)
{
  m.def(EFFKERN_POINTWISE_CUDA_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern_emulated, CPU, m)
{
  m.impl("pointwise", TORCH_BOX(&pointwise));
}

}  // namespace effkern
