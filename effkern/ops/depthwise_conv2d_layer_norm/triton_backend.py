"""Calls of depthwise_conv2d_layer_norm that the Triton kernel takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..depthwise_conv2d import triton_inference

_OP = "depthwise_conv2d_layer_norm"


def forward(
    name: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    pads: tuple[int, ...],
) -> Tensor | None:
    """The result, or None for a call that is composed of depthwise_conv2d, on the same backend, and
    torch's layer_norm: gradients, transforms, other kernels than 3x3, 5x5 and 7x7, more channels
    than a program holds, mistakes.

    Args:
        name: of the function. scale, shift: of the LayerNorm. pads: top, bottom, left, right.
    """
    tensors = [t for t in (input, weight, bias, scale, shift) if t is not None]
    if not triton_inference.asked_for(tensors) or not triton_inference.takes(input):
        return None
    batch, channels, height, width = input.shape
    kernel = weight.shape[3]
    size = (height + pads[0] + pads[1] - kernel + 1, width + pads[2] + pads[3] - kernel + 1)
    convolution = [t for t in (weight, bias) if t is not None]
    if (
        weight.shape != (channels, 1, kernel, kernel)
        or not _has_kernel(channels, kernel)
        or min(batch, channels, *size) < 1
        or min(pads) < 0
        or any((t.dtype, t.device) != (input.dtype, input.device) for t in convolution)
        or (bias is not None and bias.shape != (channels,))
    ):
        return None
    triton_inference.check(name, input, None)
    suggested = [torch._prims_common.suggest_memory_format(t) for t in (input, weight)]
    last = torch.channels_last
    like = last if last in suggested else torch.contiguous_format
    shape = (batch, channels, *size)
    output, result = triton_inference.outputs(input, shape, like)

    from ...triton_kernels.depthwise_conv2d_layer_norm import launch

    launch.forward(
        _OP,
        input.contiguous(memory_format=last),
        weight,
        *(None if t is None else t.contiguous() for t in (bias, scale, shift)),
        eps,
        result,
        (pads[0], pads[2]),
    )
    return output if result is output else output.copy_(result)


def _has_kernel(channels: int, kernel: int) -> bool:
    from ...triton_kernels.depthwise_conv2d_layer_norm import configs

    return kernel in configs.KERNELS and channels <= configs.MOST_CHANNELS


def plan(p: dict[str, Any]) -> dict[str, Any] | None:
    """Kernel, tile, grid, workspace and reason of a :class:`effkern.plans.Plan`, without gradients;
    None for a call that is composed.

    Args:
        p: the problem, as in :class:`effkern.explanation.Explanation`.
    """
    from ...triton_kernels.depthwise_conv2d_layer_norm import configs

    channels, kernel, dtype = p["out_channels"], p["kernel_h"], getattr(torch, p["dtype"])
    square = p["kernel_w"] == kernel and p["in_channels"] == channels
    if not (square and _has_kernel(channels, kernel) and triton_inference.has_dtype(dtype)):
        return None
    config = configs.config(channels, dtype.itemsize)
    rows = p["height"] + p["pad_top"] + p["pad_bottom"] - kernel + 1
    columns = p["width"] + p["pad_left"] + p["pad_right"] - kernel + 1
    counts = ("dram_bytes", "instructions_per_output", "counted_for", "predicted", "predicted_for")
    return dict.fromkeys(counts) | {
        "kernel": "depthwise_conv2d_layer_norm_kernel",
        "tile": f"{config.rows}x{config.columns}x{channels}",
        "grid": p["batch"] * -(-rows // config.rows) * -(-columns // config.columns),
        "workspace": channels * kernel * kernel * 4,
        "reason": "asked for by name; one pass where no gradient is needed, else composed",
    }
