"""pointwise: a 1x1 convolution with what goes before and after it, on CPU; not public."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _library
from . import composed

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

if _library.available():
    _OPERATOR = torch.ops.effkern._pointwise.default


def pointwise_into(
    out: Tensor,
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    scale: Tensor | None = None,
    activation: int = 0,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> None:
    """out = residual + activation(scale * (weight @ (gate * images)) + bias), rounded once.

    Args:
        out: (N, O, H, W), dense, contiguous or channels_last; overwritten.
        images: (N, C, H, W), alike; in float64, and only then, it may be overwritten.
        weight: (O, C). bias, scale: (O,), or None.
        activation: one of effkern.ops.depthwise_conv2d.arguments.ACTIVATIONS.
        gate: (N, C), or None. residual: of the shape of `out`, dense, or None.

    All are on the CPU and have one dtype; nothing is differentiated.
    """
    if out.dtype not in _DTYPES:
        composed.pointwise_into(out, images, weight, bias, scale, activation, gate, residual)
        return
    if weight.stride(1) != 1:
        weight = weight.contiguous()
    if residual is not None and residual.stride() != out.stride():
        residual = torch.empty_like(out).copy_(residual)
    vectors = [None if t is None else t.contiguous() for t in (scale, bias, gate)]
    _OPERATOR(images, weight, *vectors, residual, activation, out)


def as_image(pixels: Tensor) -> Tensor:
    """A matrix of P pixels x C channels as (1, C, P, 1), a view."""
    return pixels.t()[None, :, :, None]
