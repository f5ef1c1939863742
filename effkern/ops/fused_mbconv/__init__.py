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
from .dense import dense_kernel

if _library.available():
    _OPERATOR = torch.ops.effkern._fused_mbconv_cpu.default

_NAME = "effkern.fused_mbconv"


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

    Calls that need no gradient have kernels. On CPU everything is done for a block of pixels that
    stays in the cache: 3x3 with stride 1 by Winograd's F(2x2, 3x3), within the error bound of all
    kernels here, others by products; float64, fewer than 4 channels, and where the processor
    multiplies bfloat16 itself, bfloat16 with a stride, leave the dense convolution to torch, a few
    images at a time. Backend "cuda": float16 or bfloat16,
    channels_last, channels in multiples of 8, O <= 96. Backend "triton": float32, float16 or
    bfloat16, O <= 256. Everything else is composed of torch's operators, differentiable to any
    order.

    Source: EfficientNetV2 (arXiv 2104.00298); fast algorithms (arXiv 1509.09308).
    """
    block = _checked(
        input, expand_weight, expand_bias, project_weight, project_bias, stride, padding,
        activation, residual,
    )  # fmt: skip
    if input.dim() == 3:
        added = None if residual is None else residual.unsqueeze(0)
        return _run(input.unsqueeze(0), block, added).squeeze(0)
    return _run(input, block, residual)


def _checked(
    input, expand_weight, expand_bias, project_weight, project_bias, stride, padding, activation,
    residual,
) -> _Block:  # fmt: skip
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
    return _Block(expand_weight, expand_bias, project_weight, project_bias, params, size)


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


def _in_blocks(input: Tensor, block: _Block) -> bool:
    pixel_count = input.shape[0] * block.size[0] * block.size[1]
    kernel = dense_kernel(block.expand_weight, block.params, pixel_count, input.dtype)
    # Torch has the words for a kernel that does not fit.
    return kernel.is_own and min(block.size) > 0


def _infer(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor:
    weight, bias, project_weight, project_bias, params, size = block
    # The convolution of a library reads and writes this layout without a copy, and the matrix
    # product that follows can write either.
    weight = weight.contiguous(memory_format=torch.channels_last)
    like = pixels.memory_format(input)
    if _in_blocks(input, block):
        return infer(input, _operands(block), residual)
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


class Operands(NamedTuple):
    """Of the operator, without gaps, and of its result without the images."""

    weights: tuple[Tensor | None, ...]
    numbers: tuple[int, ...]
    shape: tuple[int, int, int]


def _operands(block: _Block) -> Operands:
    weight, bias, project_weight, project_bias, params, size = block
    channels = weight.shape[0] if project_weight is None else project_weight.shape[0]
    weights = (
        weight.contiguous(memory_format=torch.channels_last),
        *(None if t is None else t.contiguous() for t in (bias, project_weight, project_bias)),
    )
    return Operands(weights, (*params[:3], params[4], params[8]), (channels, *size))


def operands(input: Tensor, *arguments: Any) -> Operands | None:
    """What :func:`infer` takes for this call and for others with images of the same size and dtype,
    or None if it is not computed in blocks.

    Args:
        arguments: those of :func:`fused_mbconv` after the input, in its order.
    """
    block, residual = _checked(input, *arguments), arguments[-1]
    tensors = [t for t in (input, *block[:4], residual) if t is not None]
    return _operands(block) if pixels.infers_on_cpu(tensors) and _in_blocks(input, block) else None


def infer(images: Tensor, operands: Operands, residual: Tensor | None) -> Tensor:
    """The call, unchecked."""
    last = torch.channels_last
    shape = (images.shape[0], *operands.shape)
    output = torch.empty(shape, dtype=images.dtype, memory_format=last)
    added = None if residual is None else residual.contiguous(memory_format=last)
    _OPERATOR(
        images.contiguous(memory_format=last), *operands.weights, added, *operands.numbers, output
    )
    return output.contiguous(memory_format=pixels.memory_format(images))
