// Checks of fused_mbconv's arguments, and its result.
#include "fused_mbconv/fused_mbconv_arguments.h"

#include <algorithm>

#include "depthwise_conv2d/depthwise_conv2d_arguments.h"

namespace effkern {
namespace {

class Checks {
 public:
  Checks(const char* op, const TensorView& input) : op_(op), input_(input) {}

  // A tensor like the input on its device, aligned where `bytes` says so.
  const void* data(const char* name, const TensorView& tensor, uintptr_t bytes) const {
    EFFKERN_CHECK(tensor.dtype == input_.dtype, op_, ": ", name, ": wanted ",
                  dtype_name(input_.dtype), " as input is, got ", dtype_name(tensor.dtype));
    EFFKERN_CHECK(
        tensor.device_type == input_.device_type && tensor.device_index() == input_.device_index(),
        op_, ": ", name, ": wanted the input's device, got another");
    const void* pointer = tensor.data();
    EFFKERN_CHECK(reinterpret_cast<uintptr_t>(pointer) % bytes == 0, op_, ": ", name,
                  ": wanted memory aligned to ", bytes, " bytes, got ", pointer);
    return pointer;
  }

  // Dense channels_last, of this shape.
  const void* image(const char* name, const TensorView& tensor, const int64_t (&sizes)[4]) const {
    EFFKERN_CHECK(tensor.dim == 4, op_, ": ", name, ": wanted 4 dimensions, got ", tensor.shape());
    int64_t stride = 1;
    for (int d : {1, 3, 2, 0}) {
      EFFKERN_CHECK(tensor.sizes[d] == sizes[d], op_, ": ", name, ": wanted shape (", sizes[0],
                    ", ", sizes[1], ", ", sizes[2], ", ", sizes[3], "), got ", tensor.shape());
      EFFKERN_CHECK(sizes[d] <= 1 || tensor.strides[d] == stride, op_, ": ", name,
                    ": wanted dense channels_last memory, got a stride of ", tensor.strides[d],
                    " for dimension ", d);
      stride *= sizes[d];
    }
    return data(name, tensor, 16);
  }

  // Contiguous, with `rows` rows; a vector if there are none.
  const void* matrix(const char* name, const std::optional<Tensor>& tensor, int64_t rows,
                     int64_t columns) const {
    if (!tensor) return nullptr;
    const TensorView view(*tensor);
    const bool fits = rows ? view.dim == 2 && view.sizes[0] == rows : view.dim == 1;
    EFFKERN_CHECK(fits && view.sizes[view.dim - 1] == columns && tensor->is_contiguous(), op_, ": ",
                  name, ": wanted a contiguous tensor of ", rows ? rows : 1, " x ", columns,
                  " numbers, got ", view.shape());
    return data(name, view, rows ? 16 : 2);
  }

 private:
  const char* op_;
  const TensorView& input_;
};

DType dtype_of(const char* op, const TensorView& input) {
  if (input.dtype == aoti_torch_dtype_float16()) return DType::kFloat16;
  EFFKERN_CHECK(input.dtype == aoti_torch_dtype_bfloat16(), op,
                ": input: wanted float16 or bfloat16, got ", dtype_name(input.dtype));
  return DType::kBFloat16;
}

}  // namespace

FusedMBConvCall check_fused_mbconv(const char* op, const FusedMBConvArguments& a) {
  const TensorView input(a.input), weight(a.expand_weight);
  EFFKERN_CHECK(input.dim == 4, op, ": input: wanted (N, C, H, W), got ", input.shape());
  EFFKERN_CHECK(weight.dim == 4, op, ": expand_weight: wanted (E, C, kH, kW), got ",
                weight.shape());
  FusedMBConvCall call;
  FusedMBConvProblem& p = call.problem;
  p.dtype = dtype_of(op, input);
  p.batch = input.sizes[0], p.in_channels = input.sizes[1];
  p.height = input.sizes[2], p.width = input.sizes[3];
  p.hidden = p.out_channels = weight.sizes[0];
  p.kernel_h = weight.sizes[2], p.kernel_w = weight.sizes[3];
  p.has_projection = a.project_weight.has_value(), p.has_residual = a.residual.has_value();
  if (p.has_projection) {
    const TensorView projection(*a.project_weight);
    EFFKERN_CHECK(projection.dim == 2, op, ": project_weight: wanted (O, E), got ",
                  projection.shape());
    p.out_channels = projection.sizes[0];
  }
  p.stride_h = a.stride_h, p.stride_w = a.stride_w;
  p.pad_top = a.pad_top, p.pad_bottom = a.pad_bottom;
  p.pad_left = a.pad_left, p.pad_right = a.pad_right;
  constexpr int64_t kMostPadding = int64_t{1} << 30;
  for (int64_t pad : {p.pad_top, p.pad_bottom, p.pad_left, p.pad_right}) {
    EFFKERN_CHECK(pad >= 0 && pad < kMostPadding, op, ": padding: wanted values from 0 to ",
                  kMostPadding, ", got ", pad);
  }
  EFFKERN_CHECK(p.stride_h >= 1 && p.stride_w >= 1, op, ": stride: wanted values >= 1, got ",
                std::min(p.stride_h, p.stride_w));
  EFFKERN_CHECK(p.in_channels > 0 && p.hidden > 0 && p.kernel_h > 0 && p.kernel_w > 0 &&
                    p.kernel_h <= p.height + p.pad_top + p.pad_bottom &&
                    p.kernel_w <= p.width + p.pad_left + p.pad_right,
                op, ": expand_weight: wanted a kernel that fits into the padded input, got ",
                weight.shape(), " for ", input.shape());
  EFFKERN_CHECK(a.activation >= 0 && a.activation < kNumActivations, op,
                ": activation: wanted 0 to ", kNumActivations - 1, ", got ", a.activation);
  p.activation = static_cast<Activation>(a.activation);
  EFFKERN_CHECK(p.has_projection || !a.project_bias, op,
                ": project_bias: wanted with project_weight, got it alone");
  const FusedMBConvPlan plan = plan_fused_mbconv(p);
  EFFKERN_CHECK(!plan.refusal, op, ": input: wanted a call that the CUDA kernel takes, got ",
                plan.refusal);

  const Checks checks(op, input);
  FusedMBConvPointers& t = call.tensors;
  t.input = checks.image("input", input, {p.batch, p.in_channels, p.height, p.width});
  t.expand_weight =
      checks.image("expand_weight", weight, {p.hidden, p.in_channels, p.kernel_h, p.kernel_w});
  t.expand_bias = checks.matrix("expand_bias", a.expand_bias, 0, p.hidden);
  t.project_weight = checks.matrix("project_weight", a.project_weight, p.out_channels, p.hidden);
  t.project_bias = checks.matrix("project_bias", a.project_bias, 0, p.out_channels);
  if (a.residual) {
    t.residual = checks.image("residual", TensorView(*a.residual),
                              {p.batch, p.out_channels, p.out_height(), p.out_width()});
  }
  return call;
}

Tensor fused_mbconv_output(const FusedMBConvArguments& a, const FusedMBConvProblem& p) {
  return empty(TensorView(a.input), {p.batch, p.out_channels, p.out_height(), p.out_width()}, true);
}

}  // namespace effkern
