"""The arguments of the functions from the parts of a block, with BatchNorm folded in.

Folded weights are kept until a tensor that they were made of changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .depthwise_conv2d_same import same_padding
from .folded_batch_norm import FoldedBatchNorm
from .mbconv_sources import Layer, Parts, is_nothing, is_same, layer_activation

_OF_NORM = ("weight", "bias", "running_mean", "running_var")


def _plain(norm: Any) -> bool:
    return is_nothing(norm) or type(norm) is FoldedBatchNorm


def _tensors(layers: list[Layer]) -> list[Tensor]:
    found: list[Any] = []
    for layer in layers:
        found += (layer.conv.weight, layer.conv.bias)
        if not _plain(layer.norm):
            found += (getattr(layer.norm, name) for name in _OF_NORM)
    return [t for t in found if t is not None]


def _fold(layer: Layer) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the convolution and the norm after it, rounded once."""
    conv, norm = layer.conv, layer.norm
    if _plain(norm):
        return conv.weight, conv.bias
    tensors = (conv.weight, conv.bias, *(getattr(norm, name) for name in _OF_NORM))
    wide: Any = [None if t is None else t.detach().double() for t in tensors]
    weight, bias, scale, shift, mean, variance = wide
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    dtype = conv.weight.dtype
    return weight.detach().to(dtype), bias.detach().to(dtype)


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
    for norm in (layer.norm for layer in _layers(found)):
        if not _plain(norm) and (norm.training or norm.running_mean is None):
            return False
    if not torch.is_grad_enabled():
        return True
    return not (input.requires_grad or any(p.requires_grad for p in block.parameters()))


def _layers(found: Parts) -> list[Layer]:
    return [x for x in (found.expand, found.middle, found.project) if x is not None]


def folded(block: nn.Module, found: Parts) -> list[tuple[Tensor, Tensor | None] | None]:
    """(weight, bias) of the expansion, the k x k convolution and the projection, or None each."""
    tensors = _tensors(_layers(found))
    key = [(id(t), 0 if t.is_inference() else t._version) for t in tensors]
    kept = vars(block).get("_folded")
    if kept is None or kept[0] != key:
        layers = (found.expand, found.middle, found.project)
        # The tensors themselves are kept as well, so that no other gets the id of one of them.
        kept = key, [None if x is None else _fold(x) for x in layers], tensors
        vars(block)["_folded"] = kept
    return kept[1]


def geometry(layer: Layer, input: Tensor) -> dict[str, Any]:
    """stride, padding and activation of the k x k convolution."""
    conv = layer.conv
    padding = conv.padding
    if is_same(conv):
        sides = zip(input.shape[-2:], conv.kernel_size, conv.stride, strict=True)
        padding = tuple(same_padding(*side, 1) for side in sides)
    return {"stride": conv.stride, "padding": padding, "activation": layer_activation(layer)}
