"""Calls of convnext_block that Triton kernels take, and as how many."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..depthwise_conv2d import triton_inference
from ..depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm
from ..depthwise_conv2d_layer_norm.triton_backend import plan as norm_plan
from ..pointwise.triton_backend import dense, pointwise
from . import response_norm

_OP = "convnext_block"


class Choice(NamedTuple):
    """What follows the LayerNorm: one kernel or a product each for fc1 and fc2.

    Attributes:
        numbers: per pixel, that the whole block moves to and from device memory.
    """

    one_kernel: bool
    numbers: int
    reason: str


def choose(channels: int, hidden: int, has_response_norm: bool) -> Choice:
    """For C channels and D of fc1: whatever fits goes through one kernel, which moves least."""
    from ...triton_kernels.fused_mbconv import configs

    # The convolution's two, then what is normalised, the residual and the output.
    block = 5 * channels
    if has_response_norm:
        reason = "response normalisation takes the norms of whole images between fc1 and fc2"
        return Choice(False, block + 3 * hidden, reason)
    if channels > configs.MOST_OUT:
        reason = f"the sums of {channels} channels do not fit one kernel, {configs.MOST_OUT} do"
        return Choice(False, block + 2 * hidden, reason)
    reason = f"fc1 and fc2 in one kernel: {2 * hidden} numbers per pixel that two would move"
    return Choice(True, block, reason)


def forward(
    name: str, tensors: tuple[Any, ...], eps: float, pads: tuple[int, ...], activation: int
) -> Tensor | None:
    """The result, or None for a call that is composed: another backend, float64, a gradient, a
    transform, a compiler, empty tensors.

    Args:
        name: of the function. tensors: in the order of its parameters. pads: top, bottom, left,
            right.
    """
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, grn_weight, grn_bias, sample_scale = tensors
    present = [t for t in tensors if t is not None]
    if not triton_inference.asked_for(present) or not triton_inference.takes(x):
        return None
    if min(side for t in present for side in t.shape) < 1:
        return None
    triton_inference.check(name, x, None)
    last = torch.channels_last
    x = x.contiguous(memory_format=last)
    padding = ((pads[0], pads[1]), (pads[2], pads[3]))
    images = depthwise_conv2d_layer_norm(x, w, b, nw, nb, eps, padding=padding)
    scales: dict[str, Any] = {"scale": dense(gamma), "sample_scale": dense(sample_scale)}
    if not choose(w1.shape[1], w1.shape[0], grn_weight is not None).one_kernel:
        images = pointwise(_OP, images, w1, b1, activation=activation)
        prologue = {} if grn_weight is None else _prologue(images, grn_weight, grn_bias)
        return pointwise(_OP, images, w2, b2, **prologue, **scales, residual=x)

    from ...triton_kernels.fused_mbconv import launch

    output = torch.empty_like(x)
    launch.forward(
        _OP,
        images.contiguous(memory_format=last),
        w1.contiguous()[:, :, None, None],
        *(dense(t) for t in (b1, w2, b2)),
        x,
        output,
        (1, 1, 0, 0),
        activation,
        **scales,
    )
    return output


def _prologue(activated: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Any]:
    """Response normalisation as what fc2 does with the pixels it reads."""
    norms = torch.linalg.vector_norm(activated, dim=(2, 3), dtype=torch.float32)
    factors = torch.addcmul(torch.ones_like(norms), weight.float(), response_norm.relative(norms))
    return {"gate": factors, "shift": bias.float()}


def plan(p: dict[str, Any], has_response_norm: bool) -> dict[str, Any]:
    """Kernels, bytes moved and reason of a :class:`effkern.plans.Plan`, without gradients.

    Args:
        p: the problem, as in :class:`effkern.plans.Explanation`.
    """
    channels = p["in_channels"]
    choice = choose(channels, p["hidden_channels"], has_response_norm)
    norm = norm_plan(p)
    # The convolution's result, written and read, where LayerNorm is an operator of its own.
    numbers = choice.numbers + (0 if norm else 2 * channels)
    norms = ["aten::linalg_vector_norm"] if has_response_norm else []
    products = ["pointwise_kernel", *norms, "pointwise_kernel"]
    kernels = [
        *([norm["kernel"]] if norm else ["stencil_kernel", "aten::native_layer_norm"]),
        *(["fused_mbconv_kernel"] if choice.one_kernel else products),
    ]
    pixels = p["batch"] * p["height"] * p["width"]
    return {
        "kernel": ", ".join(kernels),
        "dram_bytes": pixels * getattr(torch, p["dtype"]).itemsize * numbers,
        "reason": f"asked for by name; {choice.reason}; composed where a gradient is needed",
    }
