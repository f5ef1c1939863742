// Checks of the arguments of depthwise_conv2d_layer_norm's CUDA kernel, and its results.
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_arguments.h"

#include "common/argument_checks.h"

namespace effkern {
namespace {

Tensor empty_floats(const TensorView& like, int64_t dim, const int64_t* sizes,
                    const int64_t* strides) {
  AtenTensorHandle handle;
  EFFKERN_SHIM(aoti_torch_empty_strided(dim, sizes, strides, aoti_torch_dtype_float32(),
                                        like.device_type, like.device_index(), &handle));
  return Tensor(handle);
}

}  // namespace

DepthwiseConv2dLayerNormCudaCall check_depthwise_conv2d_layer_norm_cuda(
    const char* op, const DepthwiseConv2dLayerNormCudaArguments& a) {
  const TensorView input(a.input), weight(a.weight);
  EFFKERN_CHECK(input.dim == 4, op, ": input: wanted (N, C, H, W), got ", input.shape());
  EFFKERN_CHECK(weight.dim == 4 && weight.sizes[0] == input.sizes[1] && weight.sizes[1] == 1 &&
                    a.weight.is_contiguous(),
                op, ": weight: wanted a contiguous tensor of (", input.sizes[1],
                ", 1, kH, kW), got ", weight.shape());
  const ArgumentChecks checks(op, input);
  DepthwiseConv2dLayerNormCudaCall call;
  DepthwiseConv2dLayerNormCudaProblem& p = call.problem;
  p.dtype = input.dtype == aoti_torch_dtype_float32()   ? DType::kFloat32
            : input.dtype == aoti_torch_dtype_float64() ? DType::kFloat64
                                                        : checks.dtype_of_16_bits();
  p.batch = input.sizes[0], p.channels = input.sizes[1];
  p.height = input.sizes[2], p.width = input.sizes[3];
  p.kernel_h = weight.sizes[2], p.kernel_w = weight.sizes[3];
  p.pad_top = a.pad_top, p.pad_bottom = a.pad_bottom;
  p.pad_left = a.pad_left, p.pad_right = a.pad_right;
  const DepthwiseConv2dLayerNormCudaPlan plan = plan_depthwise_conv2d_layer_norm_cuda(p);
  EFFKERN_CHECK(!plan.refusal, op, ": input: wanted a call that the CUDA kernel takes, got ",
                plan.refusal);

  DepthwiseConv2dLayerNormCudaPointers& t = call.tensors;
  t.input = checks.image("input", input, {p.batch, p.channels, p.height, p.width});
  t.weight = checks.data("weight", weight, 1);
  t.bias = checks.matrix("bias", a.bias, 0, p.channels, 1);
  t.norm_weight = checks.floats("norm_weight", a.norm_weight, p.channels);
  t.norm_bias = checks.floats("norm_bias", a.norm_bias, p.channels);
  return call;
}

DepthwiseConv2dLayerNormResults depthwise_conv2d_layer_norm_cuda_results(
    const DepthwiseConv2dLayerNormCudaArguments& a, DepthwiseConv2dLayerNormCudaCall* call) {
  const TensorView input(a.input);
  const DepthwiseConv2dLayerNormCudaProblem& p = call->problem;
  const int64_t h = p.out_height(), w = p.out_width();
  const int64_t sizes[3] = {p.batch, h, w}, strides[3] = {h * w, w, 1}, nothing = 0, one = 1;
  const auto statistics = [&] {
    return a.save_statistics ? empty_floats(input, 3, sizes, strides)
                             : empty_floats(input, 1, &nothing, &one);
  };
  DepthwiseConv2dLayerNormResults results{empty(input, {p.batch, p.channels, h, w}, true),
                                          statistics(), statistics()};
  const auto& [output, mean, rstd] = results;
  call->tensors.output = TensorView(output).mutable_data();
  if (a.save_statistics) {
    call->tensors.mean = static_cast<float*>(TensorView(mean).mutable_data());
    call->tensors.rstd = static_cast<float*>(TensorView(rstd).mutable_data());
  }
  return results;
}

}  // namespace effkern
