"""Calls of mbconv that Triton kernels take: two pointwise kernels around the depthwise one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..depthwise_conv2d import run, triton_inference
from ..pointwise.triton_backend import pointwise
from . import checks, pixels, squeeze_excite

if TYPE_CHECKING:
    from . import _Block

_OP = "mbconv"


def forward(
    name: str, tensors: list[Tensor], block: _Block, residual: Tensor | None
) -> Tensor | None:
    """The result, or None for a call that is composed: another backend, float64, a gradient, a
    transform, a compiler, empty tensors, a norm without a gate, or sizes that the convolution has
    words for.

    Args:
        name: of the function. tensors: all of them, the input first.
    """
    input = tensors[0]
    if not triton_inference.asked_for(tensors) or not triton_inference.takes(input):
        return None
    size = checks.output_size(input, block.depthwise_weight, block.params)
    ungated_norm = block.norm is not None and block.se is None
    if ungated_norm or min(*size, *(side for t in tensors for side in t.shape)) < 1:
        return None
    triton_inference.check(name, input, None)
    shape = (input.shape[0], block.project_weight.shape[0], *size)
    output, result = triton_inference.outputs(input, shape, pixels.memory_format(input))
    code = block.params[8]
    # Planes go by a copy to pixels and back: C and O numbers per pixel, not E.
    images = input.contiguous(memory_format=torch.channels_last)
    if block.expand_weight is not None:
        images = pointwise(_OP, images, block.expand_weight, block.expand_bias, activation=code)
    params = block.params if block.norm is None else (*block.params[:8], 0)
    images = run(images, block.depthwise_weight, block.depthwise_bias, params)
    prologue = {} if block.se is None else _prologue(images, block.se, block)
    pointwise(
        *(_OP, images, block.project_weight, block.project_bias, result),
        **prologue,
        residual=residual,
    )
    return output if result is output else output.copy_(result)


def _prologue(images: Tensor, se: squeeze_excite.Arguments, block: _Block) -> dict[str, Any]:
    """What the projection does with the pixels: the gate, and the norm and activation after it."""
    # In one pass that reads 16 bits and adds in 32.
    sums = images.sum((2, 3), dtype=torch.float32)
    pixel_count = images.shape[2] * images.shape[3]
    gate = squeeze_excite.gate(sums, pixel_count, se, images.dtype).float()
    if block.norm is None:
        return {"gate": gate}
    scale, shift = (t.float() for t in block.norm)
    return {"gate": gate * scale, "shift": shift, "input_activation": block.params[8]}


def plan(p: dict[str, Any], expands: bool, gated: bool, has_residual: bool) -> dict[str, Any]:
    """Kernels, bytes moved and reason of a :class:`effkern.plans.Plan`, without gradients.

    Args:
        p: the problem, as in :class:`effkern.plans.Explanation`.
        expands, gated, has_residual: with an expansion, squeeze-and-excitation, a residual.
    """
    hidden, out = p["hidden_channels"], p["out_channels"]
    rows = (p["height"] + p["pad_top"] + p["pad_bottom"] - p["kernel_h"]) // p["stride_h"] + 1
    columns = (p["width"] + p["pad_left"] + p["pad_right"] - p["kernel_w"]) // p["stride_w"] + 1
    # What the expansion reads and writes, and the convolution reads.
    before = p["height"] * p["width"] * (p["in_channels"] + 2 * hidden if expands else hidden)
    after = rows * columns * ((3 if gated else 2) * hidden + (2 if has_residual else 1) * out)
    itemsize = getattr(torch, p["dtype"]).itemsize
    kernels = ["stencil_kernel", *(["aten::sum"] if gated else []), "pointwise_kernel"]
    return {
        "kernel": ", ".join(["pointwise_kernel"] * expands + kernels),
        "dram_bytes": p["batch"] * itemsize * (before + after),
        "reason": "asked for by name; bias, activation, gate and residual are part of the products"
        " and the convolution, where no gradient is needed",
    }
