"""depthwise_conv2d_layer_norm in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from .depthwise_conv2d import depthwise_conv2d


def depthwise_conv2d_layer_norm(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float = 1e-6,
    *,
    padding,
) -> Tensor:
    """layer_norm(conv2d(input, weight, bias, groups=channels)) over the channels; arguments as
    effkern's, all tensors of the same dtype."""
    output = depthwise_conv2d(input, weight, bias, padding=padding).movedim(-3, -1)
    shape = (output.shape[-1],)
    return torch.layer_norm(output, shape, norm_weight, norm_bias, eps).movedim(-1, -3)
