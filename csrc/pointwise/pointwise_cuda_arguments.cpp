// Checks of the arguments of pointwise's CUDA kernel, and its result.
#include "pointwise/pointwise_cuda_arguments.h"

#include "common/argument_checks.h"

namespace effkern {

PointwiseCudaCall check_pointwise_cuda(const char* op, const PointwiseCudaArguments& a) {
  const TensorView input(a.input), weight(a.weight);
  EFFKERN_CHECK(input.dim == 4, op, ": input: wanted (N, C, H, W), got ", input.shape());
  EFFKERN_CHECK(weight.dim == 2, op, ": weight: wanted (O, C), got ", weight.shape());
  EFFKERN_CHECK(a.activation >= 0 && a.activation < kNumActivations, op,
                ": activation: wanted 0 to ", kNumActivations - 1, ", got ", a.activation);
  const ArgumentChecks checks(op, input);
  const int64_t height = input.sizes[2], width = input.sizes[3];
  PointwiseCudaCall call;
  PointwiseCudaProblem& p = call.problem;
  p.dtype = checks.dtype_of_16_bits();
  p.images = input.sizes[0], p.pixels = height * width;
  p.in_channels = input.sizes[1], p.out_channels = weight.sizes[0];
  p.has_gate = a.gate.has_value(), p.has_residual = a.residual.has_value();
  p.activation = static_cast<Activation>(a.activation);
  const PointwiseCudaPlan plan = plan_pointwise_cuda(p);
  EFFKERN_CHECK(!plan.refusal, op, ": input: wanted a call that the CUDA kernel takes, got ",
                plan.refusal);

  PointwiseCudaPointers& t = call.tensors;
  t.input = checks.image("input", input, {p.images, p.in_channels, height, width});
  t.weight = checks.matrix("weight", a.weight, p.out_channels, p.in_channels, 16);
  t.bias = checks.matrix("bias", a.bias, 0, p.out_channels, 16);
  t.gate = checks.matrix("gate", a.gate, p.images, p.in_channels, 16);
  t.scale = checks.matrix("scale", a.scale, 0, p.out_channels, 16);
  if (a.residual) {
    t.residual = checks.image("residual", TensorView(*a.residual),
                              {p.images, p.out_channels, height, width});
  }
  return call;
}

Tensor pointwise_cuda_output(const PointwiseCudaArguments& a, PointwiseCudaCall* call) {
  const TensorView input(a.input);
  const PointwiseCudaProblem& p = call->problem;
  Tensor output = empty(input, {p.images, p.out_channels, input.sizes[2], input.sizes[3]}, true);
  call->tensors.output = TensorView(output).mutable_data();
  return output;
}

}  // namespace effkern
