"""Whether a block's call is one that the functions compute, and their other arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .depthwise_conv2d_same import same_padding
from .mbconv_folding import is_plain, layers_of
from .mbconv_sources import Layer, Parts, is_same, layer_activation


def folds(block: nn.Module, found: Parts, input: Any) -> bool:
    """Whether a call is one that the function computes: inference, in eval mode, not traced."""
    if (
        block.training
        or not isinstance(input, Tensor)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or found.drop_path.training
    ):
        return False
    for norm in (layer.norm for layer in layers_of(found)):
        if not is_plain(norm) and (norm.training or norm.running_mean is None):
            return False
    if not torch.is_grad_enabled():
        return True
    return not (input.requires_grad or any(p.requires_grad for p in block.parameters()))


def geometry(layer: Layer, input: Tensor) -> dict[str, Any]:
    """stride, padding and activation of the k x k convolution."""
    conv = layer.conv
    padding = conv.padding
    if is_same(conv):
        sides = zip(input.shape[-2:], conv.kernel_size, conv.stride, strict=True)
        padding = tuple(same_padding(*side, 1) for side in sides)
    return {"stride": conv.stride, "padding": padding, "activation": layer_activation(layer)}
