"""convnext_block of CUDA kernels: which calls they take, and the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ... import registry
from ..depthwise_conv2d import cuda_inference
from ..depthwise_conv2d.arguments import Params
from ..depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm
from ..depthwise_conv2d_layer_norm.cuda_backend import refusal as norm_refusal
from ..fused_mbconv import cuda_backend as fused_mbconv
from ..pointwise.cuda_backend import plan, pointwise
from . import response_norm

# Strides and padding of a 1x1 convolution.
_GEOMETRY = (1, 1, 0, 0, 0, 0)

# Of effkern.explain, by what `kernel` gives.
_KERNELS = {
    "fused_mbconv": (
        "fused_mbconv_kernel",
        "both products in one kernel, whose wide activations stay in registers",
    ),
    "pointwise": (
        "pointwise_kernel, pointwise_kernel",
        "bias, activation, layer scale and residual are in the products' kernels",
    ),
    "response_norm": (
        "pointwise_kernel, aten::linalg_vector_norm, pointwise_kernel",
        "response normalisation is the gate and the bias of the second product",
    ),
}


def run(tensors: tuple[Any, ...], eps: float, pads, activation: int) -> Tensor | None:
    """The result of an eager call without gradients, with backend "cuda" or "cuda_emulated", that
    the kernels take; None for every other call. The arguments are those of `compose`."""
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, grn_weight, grn_bias, sample_scale = tensors
    if not cuda_inference.asked_for([t for t in tensors if t is not None]):
        return None
    name, refusal = kernel(x, w1, activation, grn_weight is not None, sample_scale is not None)
    if refusal is not None:
        return None
    padding = (tuple(pads[:2]), tuple(pads[2:]))
    n = depthwise_conv2d_layer_norm(x, w, b, nw, nb, eps, padding=padding)
    if name != "fused_mbconv":
        hidden = pointwise(n, w1, b1, activation=activation)
        gate = None
        if grn_weight is not None:
            gate, b2 = _response_norm(hidden, grn_weight, grn_bias, w2, b2)
        return pointwise(hidden, w2, b2, gate=gate, scale=gamma, residual=x)
    dense = cuda_inference.dense
    return cuda_inference.operators().fused_mbconv.default(
        cuda_inference.image(n), dense(w1[:, :, None, None]),
        *(dense(t) for t in (b1, w2, b2, gamma)), cuda_inference.image(x),
        *_GEOMETRY, activation, registry.selected,
    )  # fmt: skip


def _response_norm(
    activated: Tensor, weight: Tensor, bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Response normalisation, activated * (1 + weight * norm) + bias, as fc2's gate and bias."""
    norms = torch.linalg.vector_norm(activated, dim=(2, 3), dtype=torch.float32)
    gate = torch.addcmul(torch.ones_like(norms), weight.float(), response_norm.relative(norms))
    shift = torch.mv(fc2_weight.float(), bias.float())
    if fc2_bias is not None:
        shift = shift + fc2_bias
    return gate.to(activated.dtype), shift.to(activated.dtype)


def kernel(
    input: Tensor, fc1_weight: Tensor, activation: int, has_norms: bool, has_sample_scale: bool
) -> tuple[str, str | None]:
    """Which kernel computes the two products, and why the call is composed instead, in words: a
    function of shapes, dtype, layout and device.

    Args:
        has_norms: those of response normalisation.
    """
    if has_sample_scale:
        return "", "stochastic depth"
    if reason := cuda_inference.refusal(input):
        return "", reason
    batch, channels, height, width = input.shape
    hidden, pixels = fc1_weight.shape[0], height * width
    first = plan(input.dtype, batch, pixels, channels, hidden, activation=activation)
    second = plan(input.dtype, batch, pixels, hidden, channels, gate=has_norms, residual=True)
    if reason := first.refusal or second.refusal:
        return "", reason
    if has_norms:
        return "response_norm", None
    sizes = (*input.shape, hidden, channels, 1, 1, *_GEOMETRY)
    one = fused_mbconv.plan(str(input.dtype)[6:], True, *sizes)
    return ("fused_mbconv" if one.refusal is None else "pointwise"), None


def explained(given: Mapping[str, Any], tensors: list[Tensor], params: Params) -> Any:
    """Backend, kernel and reason of a call by its arguments; None if the kernels' backend is not
    asked for."""
    if not cuda_inference.asked_for(tensors):
        return None
    input = given["input"] if given["input"].dim() == 4 else given["input"].unsqueeze(0)
    scales = (given["grn_weight"] is not None, given["sample_scale"] is not None)
    name, refusal = kernel(input, given["fc1_weight"], params[8], *scales)
    if refusal is not None:
        return cuda_inference.COMPOSED | {"reason": f"composed: {refusal}"}
    kernels, reason = _KERNELS[name]
    weight, bias = given["depthwise_weight"], given["depthwise_bias"]
    norm = "depthwise_conv2d_layer_norm_kernel"
    if refusal := norm_refusal(input, weight, bias, tuple(params[2:6])):
        norm = "depthwise_conv2d, aten::native_layer_norm"
        reason += f"; LayerNorm is composed: {refusal}"
    return {
        "backend": registry.current(),
        "kernel": f"{norm}, {kernels}",
        "reason": f"asked for by name; {reason}",
    }
