"""mbconv of CUDA kernels: which calls they take, and the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ... import registry
from ..depthwise_conv2d import cuda_inference
from ..depthwise_conv2d.arguments import Params
from ..depthwise_conv2d.fused import SUMS
from ..depthwise_conv2d.fused import _run as depthwise
from ..pointwise.cuda_backend import plan, pointwise
from . import checks, squeeze_excite

if TYPE_CHECKING:
    from . import _Block


def run(
    input: Tensor, block: _Block, residual: Tensor | None, tensors: list[Tensor]
) -> Tensor | None:
    """The result of an eager call without gradients, with backend "cuda" or "cuda_emulated", that
    the kernels take; None for every other call.

    Args:
        tensors: all of the call.
    """
    if not cuda_inference.asked_for(tensors) or block.norm is not None:
        return None
    expand_weight, project_weight, se = block.expand_weight, block.project_weight, block.se
    weights = (expand_weight, block.depthwise_weight, project_weight)
    if refusal(input, *weights, block.params, se is not None, residual is not None):
        return None
    images = input
    if expand_weight is not None:
        code = block.params[8]
        images = pointwise(images, expand_weight, block.expand_bias, activation=code)
    operands = (images, block.depthwise_weight, block.depthwise_bias, None, None, block.params, 0)
    gates = None
    if se is None:
        images = depthwise(*operands, SUMS[None])
    else:
        images, sums = depthwise(*operands, SUMS["spatial"])
        pixel_count = images.shape[2] * images.shape[3]
        gates = squeeze_excite.gate(sums, pixel_count, se, images.dtype)
    return pointwise(images, project_weight, block.project_bias, gate=gates, residual=residual)


def refusal(
    input: Tensor,
    expand_weight: Tensor | None,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    params: Params,
    gated: bool,
    added: bool,
) -> str | None:
    """Why the call is composed instead, in words: a function of shapes, dtype, layout and device.

    Args:
        gated, added: whether there are squeeze-and-excitation and a residual.
    """
    if reason := cuda_inference.refusal(input):
        return reason
    size = checks.output_size(input, depthwise_weight, params)
    batch, channels, height, width = input.shape
    hidden, out = depthwise_weight.shape[0], project_weight.shape[0]
    # The convolution's to refuse.
    if min(size) < 1:
        return "a kernel that does not fit into the input"
    if expand_weight is not None:
        sizes = (batch, height * width, channels, hidden)
        if reason := plan(input.dtype, *sizes, activation=params[8]).refusal:
            return reason
    sizes = (batch, size[0] * size[1], hidden, out)
    return plan(input.dtype, *sizes, gate=gated, residual=added).refusal


def explained(given: Mapping[str, Any], tensors: list[Tensor], params: Params) -> Any:
    """Backend, kernel and reason of a call by its arguments; None if the kernels' backend is not
    asked for."""
    if not cuda_inference.asked_for(tensors):
        return None
    input = given["input"] if given["input"].dim() == 4 else given["input"].unsqueeze(0)
    expand, depthwise_, project = (given[f"{n}_weight"] for n in ("expand", "depthwise", "project"))
    gated, added = given["se"] is not None, given["residual"] is not None
    if reason := refusal(input, expand, depthwise_, project, params, gated, added):
        return cuda_inference.COMPOSED | {"reason": f"composed: {reason}"}
    return {
        "backend": registry.current(),
        "kernel": "pointwise_kernel, depthwise_conv2d_fused, pointwise_kernel",
        "reason": "asked for by name; bias, activation, gate and residual are in the products' "
        "kernels, the sums of squeeze-and-excitation in the depthwise kernel where it has them",
    }
