"""depthwise_conv2d in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS = {
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
    return _ACTIVATIONS[activation](output)
