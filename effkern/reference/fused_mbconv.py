"""fused_mbconv in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .depthwise_conv2d import ACTIVATIONS


def fused_mbconv(
    input: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
    residual: Tensor | None = None,
    stride=1,
    padding=1,
    activation: str | None = "silu",
) -> Tensor:
    """project(activation(conv2d(input))) + residual; arguments as effkern's, the projection's
    weight (O, E, 1, 1), all tensors of the same dtype. `padding` of each side is a pair of
    pairs."""
    if isinstance(padding, tuple):
        (top, bottom), (left, right) = padding
        input, padding = F.pad(input, (left, right, top, bottom)), 0
    output = ACTIVATIONS[activation](F.conv2d(input, expand_weight, expand_bias, stride, padding))
    if project_weight is not None:
        output = F.conv2d(output, project_weight, project_bias)
    return output if residual is None else output + residual
