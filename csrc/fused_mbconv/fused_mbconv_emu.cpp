// The CUDA kernel on CPU tensors, through the emulator: torch.ops.effkern_emulated.
#include "emulation/emulator.h"
#include "fused_mbconv/fused_mbconv_arguments.h"

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
  EFFKERN_CHECK(backend == int64_t(Backend::kCudaEmulated), kName,
                ": backend: wanted cuda_emulated (", int(Backend::kCudaEmulated), "), got ",
                backend);
  const FusedMBConvArguments arguments{input,        expand_weight, expand_bias, project_weight,
                                       project_bias, project_scale, residual,    stride_h,
                                       stride_w,     pad_top,       pad_bottom,  pad_left,
                                       pad_right,    activation};
  FusedMBConvCall call = check_fused_mbconv(kName, arguments);
  const Tensor output = fused_mbconv_output(arguments, call.problem);
  call.tensors.output = TensorView(output).mutable_data();
  const FusedMBConvProblem& p = call.problem;
  const FusedMBConvPointers& t = call.tensors;
  const int64_t outputs = p.pixels() * p.out_channels;
  std::vector<emulation::Buffer> buffers;
  const auto declare = [&](const char* name, const void* data, int64_t elements) {
    if (data) buffers.push_back({data, size_t(2 * elements), name, data == t.output});
  };
  declare("input", t.input, p.batch * p.height * p.width * p.in_channels);
  declare("expand_weight", t.expand_weight, p.hidden * p.depth());
  declare("expand_bias", t.expand_bias, p.hidden);
  declare("project_weight", t.project_weight, p.hidden * p.out_channels);
  declare("project_bias", t.project_bias, p.out_channels);
  declare("project_scale", t.project_scale, p.out_channels);
  // The residual may be the input.
  if (t.residual != t.input) declare("residual", t.residual, outputs);
  declare("output", t.output, outputs);
  const emulation::DeclaredBuffers declared(buffers);
  check_fused_mbconv_launch(kName, p, fused_mbconv_cuda(p, t, nullptr));
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern_emulated, m)
{
  m.def(EFFKERN_FUSED_MBCONV_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(effkern_emulated, CPU, m)
{
  m.impl("fused_mbconv", TORCH_BOX(&fused_mbconv));
}

}  // namespace effkern
