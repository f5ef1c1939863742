"""convnext_block of CUDA kernels: which calls they take, and the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ... import registry
from ..depthwise_conv2d import cuda_inference
from ..depthwise_conv2d.arguments import Params
from ..depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm
from ..pointwise.cuda_backend import plan, pointwise


def run(tensors: tuple[Any, ...], eps: float, pads, activation: int) -> Tensor | None:
    """The result of an eager call without gradients, with backend "cuda" or "cuda_emulated", that
    the kernels take; None for every other call. The arguments are those of `compose`."""
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, grn_weight, _, sample_scale = tensors
    present = [t for t in tensors if t is not None]
    scaled = grn_weight is not None or sample_scale is not None
    if not cuda_inference.asked_for(present) or refusal(x, w1, activation, scaled):
        return None
    padding = (tuple(pads[:2]), tuple(pads[2:]))
    n = depthwise_conv2d_layer_norm(x, w, b, nw, nb, eps, padding=padding)
    hidden = pointwise(n, w1, b1, activation=activation)
    return pointwise(hidden, w2, b2, scale=gamma, residual=x)


def refusal(input: Tensor, fc1_weight: Tensor, activation: int, scaled: bool) -> str | None:
    """Why the call is composed instead, in words: a function of shapes, dtype, layout and device.

    Args:
        scaled: by numbers of an image, those of response normalisation or stochastic depth.
    """
    if scaled:
        return "a response normalisation or stochastic depth"
    if reason := cuda_inference.refusal(input):
        return reason
    batch, channels, height, width = input.shape
    hidden, pixels = fc1_weight.shape[0], height * width
    first = plan(input.dtype, batch, pixels, channels, hidden, activation=activation)
    return (
        first.refusal or plan(input.dtype, batch, pixels, hidden, channels, residual=True).refusal
    )


def explained(given: Mapping[str, Any], tensors: list[Tensor], params: Params) -> Any:
    """Backend, kernel and reason of a call by its arguments; None if the kernels' backend is not
    asked for."""
    if not cuda_inference.asked_for(tensors):
        return None
    input = given["input"] if given["input"].dim() == 4 else given["input"].unsqueeze(0)
    scaled = given["grn_weight"] is not None or given["sample_scale"] is not None
    if reason := refusal(input, given["fc1_weight"], params[8], scaled):
        return cuda_inference.COMPOSED | {"reason": f"composed: {reason}"}
    return {
        "backend": registry.current(),
        "kernel": "depthwise_conv2d_layer_norm, pointwise_kernel, pointwise_kernel",
        "reason": "asked for by name; bias, activation, layer scale and residual are in the "
        "products' kernels",
    }
