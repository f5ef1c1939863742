"""BatchNorm folded into the convolutions of a block, and kept until a tensor changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .folded_batch_norm import FoldedBatchNorm
from .mbconv_sources import Layer, Parts, is_nothing

_OF_NORM = ("weight", "bias", "running_mean", "running_var")


def is_plain(norm: Any) -> bool:
    return is_nothing(norm) or type(norm) is FoldedBatchNorm


def layers_of(found: Parts) -> list[Layer]:
    return [x for x in (found.expand, found.middle, found.project) if x is not None]


def _tensors(layers: list[Layer]) -> list[Tensor]:
    found: list[Any] = []
    for layer in layers:
        found += (layer.conv.weight, layer.conv.bias)
        if not is_plain(layer.norm):
            found += (getattr(layer.norm, name) for name in _OF_NORM)
    return [t for t in found if t is not None]


def _fold(layer: Layer) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the convolution and the norm after it, rounded once."""
    conv, norm = layer.conv, layer.norm
    if is_plain(norm):
        return conv.weight, conv.bias
    tensors = (conv.weight, conv.bias, *(getattr(norm, name) for name in _OF_NORM))
    wide: Any = [None if t is None else t.detach().double() for t in tensors]
    weight, bias, scale, shift, mean, variance = wide
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    dtype = conv.weight.dtype
    weight = weight.detach().to(dtype)
    if conv.groups == 1 and weight.shape[2:] != (1, 1):
        # As fused_mbconv reads it: else it would be copied in each call.
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight, bias.detach().to(dtype)


def _affine(layer: Layer) -> tuple[Tensor, Tensor]:
    """Scale and shift of a norm, rounded once."""
    norm = layer.norm
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    dtype = layer.conv.weight.dtype
    return scale.to(dtype), shift.to(dtype)


def folded(block: nn.Module, found: Parts) -> list[tuple[Tensor, Tensor | None] | None]:
    """(weight, bias) of the expansion, the k x k convolution and the projection, or None each, and
    (scale, shift) of the norm that squeeze-and-excitation comes before, or None."""
    tensors = _tensors(layers_of(found))
    key = [(id(t), 0 if t.is_inference() else t._version) for t in tensors]
    kept = vars(block).get("_folded")
    if kept is None or kept[0] != key:
        early = not is_nothing(found.early_se)
        middle = found.middle._replace(norm=None) if early else found.middle
        layers = (found.expand, middle, found.project)
        results: list[Any] = [None if x is None else _fold(x) for x in layers]
        results.append(_affine(found.middle) if early else None)
        # The tensors themselves are kept as well, so that no other gets the id of one of them.
        kept = key, results, tensors
        vars(block)["_folded"] = kept
    return kept[1]
