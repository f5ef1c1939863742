"""Calls of depthwise_conv2d_layer_norm that the CUDA kernel takes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ... import _library, registry
from ..depthwise_conv2d import cuda_inference

if _library.available():
    from . import autograd

if TYPE_CHECKING:
    from ..._C import DepthwiseConv2dLayerNormCudaPlan


@functools.lru_cache(maxsize=256)
def plan(
    dtype: str, input: tuple[int, ...], kernel: tuple[int, ...], pads: tuple[int, ...]
) -> DepthwiseConv2dLayerNormCudaPlan:
    """The kernel's plan; its `refusal` says why there is no kernel.

    Args:
        dtype: torch's name of it. input: (N, C, H, W). pads: top, bottom, left, right.
    """
    from ... import _C

    sizes: Any = (*input, *kernel, *pads)
    return _C.plan_depthwise_conv2d_layer_norm_cuda(dtype, *sizes)


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    pads: tuple[int, ...],
) -> Tensor | None:
    """The result, with gradients composed of other operators; None for a call that is composed as a
    whole: transforms, autocast, images that are not channels_last, what the plan refuses, mistakes.

    Args:
        scale, shift: of the LayerNorm. pads: top, bottom, left, right.
    """
    tensors = [t for t in (input, weight, bias, scale, shift) if t is not None]
    if not cuda_inference.asked_for(tensors, differentiable=True):
        return None
    if refusal(input, weight, bias, pads) is not None:
        return None
    if cuda_inference.needs_gradients(tensors):
        return LayerNorm.apply(input, weight, bias, scale, shift, eps, *pads)
    return _call(input, weight, bias, scale, shift, eps, pads, False)[0]


def refusal(
    input: Tensor, weight: Tensor, bias: Tensor | None, pads: tuple[int, ...]
) -> str | None:
    """Why the kernel does not take a call on the selected backend, in words."""
    channels = input.shape[1]
    if weight.shape[:2] != (channels, 1):
        return "several outputs of an input channel"
    if any(
        (t.dtype, t.device) != (input.dtype, input.device) for t in (weight, bias) if t is not None
    ):
        return "tensors of several dtypes"
    if bias is not None and bias.shape != (channels,):
        return "a bias of another size"
    if reason := cuda_inference.refusal(input):
        return reason
    return plan(str(input.dtype)[6:], tuple(input.shape), tuple(weight.shape[2:]), pads).refusal


def _call(input, weight, bias, scale, shift, eps: float, pads, save_statistics: bool):
    """Output, mean and rstd; the two are empty if they are not to be saved."""
    dense = cuda_inference.dense
    return cuda_inference.operators().depthwise_conv2d_layer_norm_forward.default(
        cuda_inference.image(input), *(dense(t) for t in (weight, bias, scale, shift)), eps, *pads,
        save_statistics, registry.selected,
    )  # fmt: skip


class LayerNorm(torch.autograd.Function):
    """The kernel, with a backward of other operators that computes the convolution again."""

    @staticmethod
    def forward(ctx: Any, *inputs):
        input, weight, bias, scale, shift, eps, *pads = inputs
        results = _call(input, weight, bias, scale, shift, eps, pads, True)
        autograd.setup(ctx, inputs, results)
        ctx.backend = registry.selected
        return results[0]

    @staticmethod
    def backward(ctx: Any, grad):
        return autograd.backward(ctx, grad)


def explained(p: dict[str, Any]) -> dict[str, Any]:
    """Kernel and reason of a :class:`effkern.plans.Plan` and, where the kernel takes the call, the
    rest of it; without a kernel only `reason`, why the call is composed.

    Args:
        p: the problem, as in :class:`effkern.explanation.Explanation`.
    """
    if p["in_channels"] != p["out_channels"]:
        return {"reason": "composed: several outputs of an input channel"}
    if p["layout"] != "channels_last":
        return {"reason": "composed: an input that is not channels_last"}
    size = (p["batch"], p["in_channels"], p["height"], p["width"])
    pads = tuple(p[f"pad_{side}"] for side in ("top", "bottom", "left", "right"))
    found = plan(p["dtype"], size, (p["kernel_h"], p["kernel_w"]), pads)
    if found.refusal is not None:
        return {"reason": f"composed: {found.refusal}"}
    unknown = ("code", "dram_bytes", "instructions_per_output", "counted_for", "predicted")
    return dict.fromkeys((*unknown, "predicted_for", "workspace")) | {
        "kernel": "depthwise_conv2d_layer_norm_kernel",
        "tile": f"{found.rows}x{found.slots * found.pixels}x{p['in_channels']}",
        "grid": found.grid,
        "shared_memory": found.shared_memory,
        "bytes": found.bytes,
        "flops": found.flops,
        "reason": "asked for by name; one pass, its backward is composed",
    }
