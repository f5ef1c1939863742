// depthwise_conv2d from aten's operators, called through torch's dispatcher: what the operators run
// where the plan, made at run time with the real sizes, prefers torch.
#include <torch/csrc/stable/ops.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "depthwise_conv2d/depthwise_conv2d_op.h"

namespace effkern {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;
using Ints = std::vector<int64_t>;

// Calls an operator with one tensor result.
template <class... Args>
Tensor call(const char* name, const char* overload, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{from(args)...};
  EFFKERN_SHIM(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

bool is_symmetric(const Geometry& g) {
  return g.pad_top == g.pad_bottom && g.pad_left == g.pad_right;
}

// aten's convolution pads both sides alike: other paddings become zeros in the input.
Tensor padded(const Tensor& input, const Geometry& g) {
  if (is_symmetric(g)) return input;
  const Ints pad{g.pad_left, g.pad_right, g.pad_top, g.pad_bottom};
  return torch::stable::pad(input, pad);
}

Ints padding(const Geometry& g) {
  return is_symmetric(g) ? Ints{g.pad_top, g.pad_left} : Ints{0, 0};
}

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   const Geometry& g, int64_t groups) {
  return call("aten::convolution", "", padded(input, g), weight, bias, Ints{g.stride_h, g.stride_w},
              padding(g), Ints{g.dilation_h, g.dilation_w}, false, Ints{0, 0}, groups);
}

// 1 where x > 0, else 0.
Tensor positive(const Tensor& x) { return call("aten::sign", "", call("aten::relu", "", x)); }

}  // namespace

Tensor torch_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Geometry& geometry, const DepthwiseConv2dProblem& problem) {
  const Tensor pre = convolution(input, weight, bias, geometry, problem.in_channels);
  switch (problem.activation) {
    case Activation::kNone:
      return pre;
    case Activation::kReLU:
      return call("aten::relu", "", pre);
    case Activation::kReLU6:
      return call("aten::relu6", "", pre);
    case Activation::kSiLU:
      return call("aten::silu", "", pre);
    case Activation::kGELU:
      return call("aten::gelu", "", pre, std::string("none"));
    case Activation::kGELUTanh:
      return call("aten::gelu", "", pre, std::string("tanh"));
    case Activation::kHardswish:
      return call("aten::hardswish", "", pre);
  }
  return pre;
}

Tensor torch_activation_backward(const Tensor& grad_output, const Tensor& input,
                                 const Tensor& weight, const std::optional<Tensor>& bias,
                                 const Geometry& geometry, const DepthwiseConv2dProblem& problem) {
  const Tensor pre = convolution(input, weight, bias, geometry, problem.in_channels);
  switch (problem.activation) {
    case Activation::kNone:
      return call("aten::clone", "", grad_output, std::optional<int64_t>());
    case Activation::kReLU:
      return call("aten::mul", "Tensor", grad_output, positive(pre));
    case Activation::kReLU6: {
      const int64_t one = 1;
      const Tensor six =
          torch::stable::full({&one, 1}, 6.0, pre.scalar_type(), std::nullopt, pre.device());
      const Tensor inside =
          call("aten::mul", "Tensor", positive(pre), positive(torch::stable::subtract(six, pre)));
      return call("aten::mul", "Tensor", grad_output, inside);
    }
    case Activation::kSiLU:
      return call("aten::silu_backward", "", grad_output, pre);
    case Activation::kGELU:
      return call("aten::gelu_backward", "", grad_output, pre, std::string("none"));
    case Activation::kGELUTanh:
      return call("aten::gelu_backward", "", grad_output, pre, std::string("tanh"));
    case Activation::kHardswish:
      return call("aten::hardswish_backward", "", grad_output, pre);
  }
  return grad_output;
}

std::tuple<Tensor, Tensor, Tensor> torch_backward(const Tensor& grad_output, const Tensor& input,
                                                  const Tensor& weight, const Geometry& g,
                                                  const DepthwiseConv2dProblem& p,
                                                  const bool (&needs)[3]) {
  std::array<StableIValue, 11> stack{from(grad_output),
                                     from(padded(input, g)),
                                     from(weight),
                                     from(std::optional<Ints>(Ints{p.out_channels})),
                                     from(Ints{g.stride_h, g.stride_w}),
                                     from(padding(g)),
                                     from(Ints{g.dilation_h, g.dilation_w}),
                                     from(false),
                                     from(Ints{0, 0}),
                                     from(p.in_channels),
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(needs, 3))};
  EFFKERN_SHIM(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  Tensor grads[3] = {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
  for (int i = 0; i < 3; ++i) {
    if (!needs[i]) grads[i] = empty(TensorView(input), 0);
  }
  if (needs[0] && !is_symmetric(g)) {
    Tensor rows = torch::stable::narrow(grads[0], 2, g.pad_top, p.height);
    const Tensor inner = torch::stable::narrow(rows, 3, g.pad_left, p.width);
    grads[0] = empty(TensorView(input), {p.batch, p.in_channels, p.height, p.width},
                     TensorView(input).is_channels_last());
    torch::stable::copy_(grads[0], inner);
  }
  return {grads[0], grads[1], grads[2]};
}

}  // namespace effkern
