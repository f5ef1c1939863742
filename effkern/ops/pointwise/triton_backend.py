"""pointwise as one Triton kernel, for the operators that are made of it."""

from __future__ import annotations

import torch
from torch import Tensor


def pointwise(
    name: str,
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None = None,
    *,
    activation: int = 0,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    input_activation: int = 0,
    scale: Tensor | None = None,
    sample_scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + sample_scale * scale * activation(weight @ source + bias), rounded once, where
    source = input_activation(gate * images + shift); no gradients.

    Args:
        name: of the operator, for messages.
        images: (N, C, H, W), not empty. weight: (O, C). bias, scale: (O,). sample_scale: (N,).
        out: (N, O, H, W), channels_last without gaps, overwritten; None for fresh memory.
        gate, shift: (N, C) and (C,), float32.
        activation, input_activation: of effkern.ops.depthwise_conv2d.arguments.ACTIVATIONS; an
            input_activation wants a gate or a shift.
        residual: of the shape of the result.

    Returns:
        (N, O, H, W), channels_last.
    """
    from ...triton_kernels.pointwise import launch

    last = torch.channels_last
    if out is None:
        shape = (images.shape[0], weight.shape[0], *images.shape[2:])
        out = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=last)
    launch.forward(
        name,
        images.contiguous(memory_format=last),
        weight.contiguous(),
        dense(bias),
        out,
        activation=activation,
        gate=dense(gate),
        shift=dense(shift),
        input_activation=input_activation,
        scale=dense(scale),
        sample_scale=dense(sample_scale),
        residual=None if residual is None else residual.contiguous(memory_format=last),
    )
    return out


def dense(tensor: Tensor | None) -> Tensor | None:
    """Without gaps; None of None."""
    return None if tensor is None else tensor.contiguous()
