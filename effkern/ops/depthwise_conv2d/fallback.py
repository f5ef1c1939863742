"""depthwise_conv2d through PyTorch's own operators, for what effkern does not run itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import ACTIVATIONS, Params

_APPLY = {
    ACTIVATIONS["relu"]: torch.relu,
    ACTIVATIONS["relu6"]: F.relu6,
    ACTIVATIONS["silu"]: F.silu,
    ACTIVATIONS["gelu"]: F.gelu,
    ACTIVATIONS["gelu_tanh"]: lambda x: F.gelu(x, approximate="tanh"),
    ACTIVATIONS["hardswish"]: F.hardswish,
}


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, params: Params) -> Tensor:
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, activation = params
    padding = (top, left)
    if top != bottom or left != right:
        input = F.pad(input, (left, right, top, bottom))
        padding = (0, 0)
    output = torch.conv2d(
        input,
        weight,
        bias,
        (stride_h, stride_w),
        padding,
        (dilation_h, dilation_w),
        input.shape[-3],
    )
    return activate(output, activation)


def activate(input: Tensor, activation: int) -> Tensor:
    return _APPLY[activation](input) if activation else input


def activation_backward(grad_output: Tensor, pre: Tensor, activation: int) -> Tensor:
    """grad_output * activation'(pre), by differentiable operators. For relu and relu6 `pre` may be
    the activation's output as well."""
    aten = torch.ops.aten
    if activation == ACTIVATIONS["relu"]:
        return aten.threshold_backward(grad_output, pre, 0)
    if activation == ACTIVATIONS["relu6"]:
        return aten.hardtanh_backward(grad_output, pre, 0.0, 6.0)
    if activation == ACTIVATIONS["silu"]:
        if torch.is_grad_enabled():
            # aten::silu_backward has no derivative of its own.
            sigmoid = torch.sigmoid(pre)
            return grad_output * sigmoid * (1 + pre * (1 - sigmoid))
        return aten.silu_backward(grad_output, pre)
    if activation == ACTIVATIONS["gelu"]:
        return aten.gelu_backward(grad_output, pre)
    if activation == ACTIVATIONS["gelu_tanh"]:
        return aten.gelu_backward(grad_output, pre, approximate="tanh")
    return aten.hardswish_backward(grad_output, pre)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which effkern's kernels add up numbers of `dtype`."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def affine(input: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """scale * input + shift per channel of (N, C, H, W) or (C, H, W), in the accumulation type."""
    wide = input.to(accumulation_dtype(input.dtype))
    if scale is not None:
        wide = wide * scale[:, None, None]
    return wide if shift is None else wide + shift[:, None, None]
