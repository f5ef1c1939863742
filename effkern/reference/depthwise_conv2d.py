"""depthwise_conv2d in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
    None: lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
}


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    *,
    activation: str | None = None,
) -> Tensor:
    """activation(conv2d(input, weight, bias, groups=channels)); arguments as effkern's."""
    if not isinstance(padding, (int, str)) and isinstance(padding[0], (tuple, list)):
        (top, bottom), (left, right) = padding
        input = F.pad(input, (left, right, top, bottom))
        padding = 0
    channels = input.shape[-3]
    output = torch.conv2d(input, weight, bias, stride, padding, dilation, channels)
    return ACTIVATIONS[activation](output)


def depthwise_conv2d_fused(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    *,
    activation: str | None = None,
    input_scale: Tensor | None = None,
    input_shift: Tensor | None = None,
    input_activation: str | None = None,
    sums: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """depthwise_conv2d of input_activation(input_scale * input + input_shift), and sums of it;
    arguments as effkern's, all tensors of the same dtype."""
    if input_scale is not None:
        input = input * input_scale[:, None, None]
    if input_shift is not None:
        input = input + input_shift[:, None, None]
    output = depthwise_conv2d(
        ACTIVATIONS[input_activation](input),
        weight,
        bias,
        stride,
        padding,
        dilation,
        activation=activation,
    )
    if sums == "spatial":
        return output, output.sum((-2, -1))
    if sums == "channel":
        over = (0, 2, 3) if output.dim() == 4 else (1, 2)
        return output, output.sum(over), output.square().sum(over)
    return output
