"""convnext_block of CUDA kernels: which calls they take, and the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ... import registry
from ..depthwise_conv2d import cuda_inference
from ..depthwise_conv2d.arguments import Params
from ..depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm
from ..fused_mbconv import cuda_backend as fused_mbconv
from ..pointwise.cuda_backend import plan, pointwise

# Strides and padding of a 1x1 convolution.
_GEOMETRY = (1, 1, 0, 0, 0, 0)

# Of effkern.explain, by what `kernel` gives.
_KERNELS = {
    "fused_mbconv": (
        "depthwise_conv2d_layer_norm, fused_mbconv_kernel",
        "both products in one kernel, whose wide activations stay in registers",
    ),
    "pointwise": (
        "depthwise_conv2d_layer_norm, pointwise_kernel, pointwise_kernel",
        "bias, activation, layer scale and residual are in the products' kernels",
    ),
}


def run(tensors: tuple[Any, ...], eps: float, pads, activation: int) -> Tensor | None:
    """The result of an eager call without gradients, with backend "cuda" or "cuda_emulated", that
    the kernels take; None for every other call. The arguments are those of `compose`."""
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, grn_weight, _, sample_scale = tensors
    scaled = grn_weight is not None or sample_scale is not None
    if not cuda_inference.asked_for([t for t in tensors if t is not None]):
        return None
    name, refusal = kernel(x, w1, activation, scaled)
    if refusal is not None:
        return None
    padding = (tuple(pads[:2]), tuple(pads[2:]))
    n = depthwise_conv2d_layer_norm(x, w, b, nw, nb, eps, padding=padding)
    if name == "pointwise":
        hidden = pointwise(n, w1, b1, activation=activation)
        return pointwise(hidden, w2, b2, scale=gamma, residual=x)
    dense = cuda_inference.dense
    return cuda_inference.operators().fused_mbconv.default(
        cuda_inference.image(n), dense(w1[:, :, None, None]),
        *(dense(t) for t in (b1, w2, b2, gamma)), cuda_inference.image(x),
        *_GEOMETRY, activation, registry.selected,
    )  # fmt: skip


def kernel(
    input: Tensor, fc1_weight: Tensor, activation: int, scaled: bool
) -> tuple[str, str | None]:
    """Which kernel computes the two products, and why the call is composed instead, in words: a
    function of shapes, dtype, layout and device.

    Args:
        scaled: by numbers of an image, those of response normalisation or stochastic depth.
    """
    if scaled:
        return "", "a response normalisation or stochastic depth"
    if reason := cuda_inference.refusal(input):
        return "", reason
    batch, channels, height, width = input.shape
    hidden, pixels = fc1_weight.shape[0], height * width
    first = plan(input.dtype, batch, pixels, channels, hidden, activation=activation)
    second = plan(input.dtype, batch, pixels, hidden, channels, residual=True)
    if reason := first.refusal or second.refusal:
        return "", reason
    sizes = (*input.shape, hidden, channels, 1, 1, *_GEOMETRY)
    one = fused_mbconv.plan(str(input.dtype)[6:], True, *sizes)
    return ("fused_mbconv" if one.refusal is None else "pointwise"), None


def explained(given: Mapping[str, Any], tensors: list[Tensor], params: Params) -> Any:
    """Backend, kernel and reason of a call by its arguments; None if the kernels' backend is not
    asked for."""
    if not cuda_inference.asked_for(tensors):
        return None
    input = given["input"] if given["input"].dim() == 4 else given["input"].unsqueeze(0)
    scaled = given["grn_weight"] is not None or given["sample_scale"] is not None
    name, refusal = kernel(input, given["fc1_weight"], params[8], scaled)
    if refusal is not None:
        return cuda_inference.COMPOSED | {"reason": f"composed: {refusal}"}
    kernels, reason = _KERNELS[name]
    return {
        "backend": registry.current(),
        "kernel": kernels,
        "reason": f"asked for by name; {reason}",
    }
