"""fused_mbconv: the block of EfficientNetV2 with one dense convolution, for inference."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import _library
from ..depthwise_conv2d import fallback
from ..depthwise_conv2d.arguments import Params, resolve_for
from ..mbconv import checks, pixels
from ..pointwise import composed, pointwise_into
from . import cuda_backend, triton_backend

if _library.available():
    _WINOGRAD = torch.ops.effkern._fused_mbconv_cpu.default

_NAME = "effkern.fused_mbconv"
_WINOGRAD_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Below, the transforms of Winograd cost more than they save.
_WINOGRAD_CHANNELS = 8


class _Block(NamedTuple):
    """The weights of the block, the projection as a matrix, and the size of its output."""

    expand_weight: Tensor
    expand_bias: Tensor | None
    project_weight: Tensor | None
    project_bias: Tensor | None
    params: Params
    size: tuple[int, int]


def fused_mbconv(
    input: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 1,
    activation: str | None = "silu",
    residual: Tensor | None = None,
) -> Tensor:
    r"""Fused inverted residual block with BatchNorm folded into its convolutions.

    Computes ``project(activation(expand(input))) + residual``, where expand is a dense convolution
    and project a 1x1 convolution, or nothing.

    Args:
        input: (N, C, H, W) or (C, H, W); float64, float32, float16 or bfloat16; contiguous and
            channels_last are fast.
        expand_weight, expand_bias: (E, C, kH, kW), and (E,) or None.
        project_weight, project_bias: (O, E) or (O, E, 1, 1), and (O,) or None. Without a weight
            there is no projection: O = E.
        stride, padding, activation: as for :func:`depthwise_conv2d`.
        residual: added to the result, of its shape; for instance `input`.

    Returns:
        (N, O, H', W'), or (O, H', W') for an unbatched input, in the memory format of `input`.

    Raises:
        RuntimeError, TypeError, ValueError: shapes, dtypes or devices that do not go together, a
            bias without its weight, an unknown activation, or as ``torch.nn.functional.conv2d``;
            with a backend asked for by name, an eager call without gradients that its kernel does
            not take.

    Calls that need no gradient have kernels. On CPU: for 3x3 with stride 1 Winograd's F(2x2, 3x3),
    within the error bound of all kernels here, and the projection in one pass; with others the
    dense convolution is torch's, a few images at a time. Backend "cuda": float16 or bfloat16,
    channels_last, channels in multiples of 8, O <= 96. Backend "triton": float32, float16 or
    bfloat16, O <= 256. Everything else is composed of torch's operators, differentiable to any
    order.

    Source: EfficientNetV2 (arXiv 2104.00298); fast algorithms (arXiv 1509.09308).
    """
    required = {"input": input, "expand_weight": expand_weight}
    optional = {
        "expand_bias": expand_bias, "project_weight": project_weight,
        "project_bias": project_bias, "residual": residual,
    }  # fmt: skip
    checks.tensors(_NAME, required, optional)
    channels = input.shape[-3]
    if expand_weight.dim() != 4 or expand_weight.shape[1] != channels:
        raise RuntimeError(
            f"{_NAME}: expand_weight: wanted (E, {channels}, kH, kW), "
            f"got {tuple(expand_weight.shape)}"
        )
    hidden = out = expand_weight.shape[0]
    checks.shape(_NAME, "expand_bias", expand_bias, (hidden,))
    if project_weight is not None:
        project_weight = checks.matrix(_NAME, "project_weight", project_weight, hidden)
        out = project_weight.shape[0]
        checks.shape(_NAME, "project_bias", project_bias, (out,))
    elif project_bias is not None:
        raise RuntimeError(f"{_NAME}: project_bias: wanted with project_weight, got it alone")
    params = resolve_for(_NAME, expand_weight, stride, padding, 1, activation)
    size = checks.output_size(input, expand_weight, params)
    checks.shape(_NAME, "residual", residual, (*input.shape[:-3], out, *size))
    block = _Block(expand_weight, expand_bias, project_weight, project_bias, params, size)
    if input.dim() == 3:
        added = None if residual is None else residual.unsqueeze(0)
        return _run(input.unsqueeze(0), block, added).squeeze(0)
    return _run(input, block, residual)


def _run(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor:
    output = cuda_backend.run(input, block, residual)
    if output is not None:
        return output
    tensors = [t for t in (input, *block[:4], residual) if t is not None]
    if pixels.infers_on_cpu(tensors):
        return _infer(input, block, residual)
    if (result := triton_backend.forward(_NAME, input, block, residual)) is not None:
        return result
    expand_weight, expand_bias, project_weight, project_bias, params, _ = block
    output = fallback.activate(_convolve(input, expand_weight, expand_bias, params), params[8])
    if project_weight is not None:
        output = pixels.pointwise(output, project_weight, project_bias, 0)
    return output if residual is None else output + residual


def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None, params: Params) -> Tensor:
    stride_h, stride_w, top, bottom, left, right = params[:6]
    padding: Any = (top, left)
    if (top, left) != (bottom, right):
        input, padding = F.pad(input, (left, right, top, bottom)), 0
    return torch.conv2d(input, weight, bias, (stride_h, stride_w), padding)


def takes_winograd(weight: Tensor, params: Params, dtype: torch.dtype) -> bool:
    """Whether the CPU's own kernel computes the dense convolution."""
    return (
        (*weight.shape[2:], *params[:2]) == (3, 3, 1, 1)
        and weight.shape[1] >= _WINOGRAD_CHANNELS
        and dtype in _WINOGRAD_DTYPES
    )


def _infer(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor:
    weight, bias, project_weight, project_bias, params, size = block
    # The convolution of a library reads and writes this layout without a copy, and the matrix
    # product that follows can write either.
    weight = weight.contiguous(memory_format=torch.channels_last)
    like = pixels.memory_format(input)
    if takes_winograd(weight, params, input.dtype):
        return _infer_winograd(input, block._replace(expand_weight=weight), residual, like)
    if project_weight is None:
        images = input.contiguous(memory_format=torch.channels_last)
        output = composed.activate_(_convolve(images, weight, bias, params), params[8])
        if residual is not None:
            output.add_(residual)
        return output.contiguous(memory_format=like)
    residual = None if residual is None else pixels.dense(residual)
    chunks = pixels.chunks(input.shape[0], weight.shape[0] * size[0] * size[1], input.dtype)
    result: Any = None
    for chunk in chunks or [slice(0, 0)]:
        images = input[chunk].contiguous(memory_format=torch.channels_last)
        images = composed.activate_(_convolve(images, weight, bias, params), params[8])
        if result is None:
            # Not before: the convolution is what refuses a kernel that does not fit.
            shape = (input.shape[0], project_weight.shape[0], *size)
            result = torch.empty(shape, dtype=input.dtype, memory_format=like)
        added = None if residual is None else residual[chunk]
        pointwise_into(result[chunk], images, project_weight, project_bias, residual=added)
    return result


def _infer_winograd(
    input: Tensor, block: _Block, residual: Tensor | None, like: torch.memory_format
) -> Tensor:
    weight, bias, project_weight, project_bias, params, size = block
    channels = weight.shape[0] if project_weight is None else project_weight.shape[0]
    shape = (input.shape[0], channels, *size)
    if min(size) < 1:
        # Torch's words for a kernel that does not fit.
        return _convolve(input, weight, bias, params)
    last = torch.channels_last
    output = torch.empty(shape, dtype=input.dtype, memory_format=last)
    _WINOGRAD(
        input.contiguous(memory_format=last),
        weight,
        None if bias is None else bias.contiguous(),
        None if project_weight is None else project_weight.contiguous(),
        None if project_bias is None else project_bias.contiguous(),
        None if residual is None else residual.contiguous(memory_format=last),
        *(params[2], params[4], params[8]),
        output,
    )
    return output.contiguous(memory_format=like)
