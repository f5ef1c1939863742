"""pointwise on CUDA: one kernel for float16 and bfloat16, channels_last; not public."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import registry
from ..depthwise_conv2d import cuda_inference

if TYPE_CHECKING:
    from ..._C import PointwiseCudaPlan


@functools.lru_cache(maxsize=256)
def plan(
    dtype: torch.dtype,
    images: int,
    pixels: int,
    channels: int,
    out_channels: int,
    *,
    gate: bool = False,
    residual: bool = False,
    activation: int = 0,
) -> PointwiseCudaPlan:
    """The kernel's plan for `pixels` of each image; its `refusal` says why there is no kernel."""
    from ... import _C

    sizes = (images, pixels, channels, out_channels)
    return _C.plan_pointwise_cuda(str(dtype)[6:], *sizes, gate, residual, activation)


def pointwise(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: int = 0,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + scale * activation(weight @ (gate * images) + bias), channels_last.

    Args:
        images: (N, C, H, W). weight: (O, C). bias, scale: (O,), or None. gate: (N, C), or None.
        activation: one of effkern.ops.depthwise_conv2d.arguments.ACTIVATIONS.
        residual: of the shape of the result, or None.

    Sums are float32, from the product to the residual; a gated number is rounded once more. What
    is not dense, channels_last or aligned is copied. The selected backend is "cuda" or
    "cuda_emulated", and the plan of the call no refusal.
    """
    return cuda_inference.operators().pointwise.default(
        cuda_inference.image(images),
        *(cuda_inference.dense(t) for t in (weight, bias, gate, scale)),
        cuda_inference.image(residual),
        activation,
        registry.selected,
    )
