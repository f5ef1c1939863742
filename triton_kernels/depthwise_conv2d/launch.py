"""Problem and tensors to grid, workspace and specialisation of the kernels.

Tensors are 4-D, on one device, and checked: nothing here looks for mistakes, except for sizes that
the kernels cannot count. On CUDA tensors everything runs on the current stream of their device, and
nothing waits for it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from . import configs, kernel, weight_grad_kernel
from .configs import unit

# Of 32-bit counts, and of coordinates, which reach past the image by the padding and a tile.
_MOST, _MOST_PIXELS = 2**31 - 1, 2**29
_BLOCK = 512


@contextlib.contextmanager
def launching(name: str, tensor: Tensor, config: NamedTuple) -> Iterator[None]:
    """On the tensor's device; what Triton cannot compile or load becomes a RuntimeError."""
    try:
        with torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext():
            yield
    except TritonError as error:
        raise RuntimeError(
            f"effkern.{name}: backend: wanted a Triton kernel with {config} for "
            f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, got "
            f"{type(error).__name__}: {error}"
        ) from error


def _vector(channels: int, tensors: Sequence[Tensor]) -> int:
    """Channels that divide every pixel's address and the number of channels: a vector, or 1."""
    vector = 16 // tensors[0].element_size()
    for tensor in tensors:
        if unit(tensor) == "c":
            # The last stride only counts where there is more than one column, and so on.
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
                if stride != 1 and size > 1:
                    vector = math.gcd(vector, stride)
    return math.gcd(vector, channels)


def _strides(tensor: Tensor, vector: int) -> list[int]:
    """In elements, or in vectors of a channels_last tensor."""
    if unit(tensor) != "c":
        return list(tensor.stride())
    return [stride // vector for stride in tensor.stride()]


def _is_wide(images: Sequence[Tensor], *parameters: Tensor | None) -> bool:
    """Whether an offset inside one image, or in a parameter, may exceed 32 bits (twice over, for
    the borders)."""
    axes = [zip(t.shape[1:], t.stride()[1:], strict=True) for t in images]
    axes += [zip(t.shape, t.stride(), strict=True) for t in parameters if t is not None]
    return any(2 * sum(size * stride for size, stride in one) > _MOST for one in axes)


def grid_of(name: str, counts: Sequence[int], pixels: Sequence[int]) -> tuple[int]:
    """The grid of counts[0] programs.

    Args:
        name: of the function. counts, pixels: what the kernels keep in 32 bits.

    Raises:
        RuntimeError: one of them does not fit.
    """
    for what, most, got in (
        ("tiles, images, channels and taps", _MOST, max(counts)),
        ("rows, columns and pixels of padding", _MOST_PIXELS, max(pixels)),
    ):
        if got > most:
            raise RuntimeError(
                f"effkern.{name}: input: wanted at most {most} {what} for the Triton kernels, "
                f"got {got}"
            )
    return (counts[0],)


def _are_far_apart(*images: Tensor) -> bool:
    """Whether the kernels' distance between images, which is a number of vectors in channels_last
    tensors, may fit 32 bits where that in elements does not."""
    return images[0].shape[0] > 1 and any(t.stride(0) > _MOST for t in images if unit(t) == "c")


def pack(weight: Tensor) -> Tensor:
    """The weights as (kernel_h, kernel_w, channels), in the dtype of the sums."""
    if _is_wide((), weight):
        weight = weight.contiguous()
    channels, _, kernel_h, kernel_w = weight.shape
    if kernel_h == kernel_w == 1 and weight.stride(0) == 1:
        return weight
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    packed = torch.empty(weight.numel(), dtype=dtype, device=weight.device)
    stride_c, _, stride_h, stride_w = weight.stride()
    kernel.pack_weight_kernel[(triton.cdiv(weight.numel(), _BLOCK),)](
        weight,
        packed,
        channels,
        kernel_w,
        weight.numel(),
        stride_c,
        stride_h,
        stride_w,
        BLOCK=_BLOCK,
    )
    return packed


def stencil(
    name: str,
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad: Tensor | None,
    output: Tensor,
    geometry: tuple[int, ...],
    activation: int,
    grad_input: bool,
) -> None:
    """Writes `output`: the forward result, or with `grad_input` the input gradient.

    Args:
        name: of the operator, for messages.
        source: (N, C, H, W) input, or grad_output for the input gradient.
        weight: (C * M, 1, kH, kW). bias: (C * M,) or None.
        grad: None, or grad_output of the shape of `output`, which is then multiplied by the
            derivative of the activation.
        geometry: stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h,
            dilation_w, in pixels.
        activation: its number in the operators' schemas.

    Raises:
        RuntimeError: more than 2**31 - 1 tiles, or 2**29 rows or columns.
    """
    images = [t for t in (source, output, grad) if t is not None]
    if _are_far_apart(*images):
        # A launch for gigabytes costs nothing.
        for n in range(source.shape[0]):
            one = None if grad is None else grad[n : n + 1]
            arguments = (name, source[n : n + 1], weight, bias, one, output[n : n + 1])
            stencil(*arguments, geometry, activation, grad_input)
        return
    stride_h, stride_w, top, _, left, _, dilation_h, dilation_w = geometry
    kernel_h, kernel_w = weight.shape[2:]
    _, channels, height, width = output.shape
    multiplier = weight.shape[0] // (channels if grad_input else source.shape[1])
    source_unit = unit(source)
    plan = configs.plan_stencil(
        source_unit, source.element_size(), tuple(output.shape), kernel_h, geometry, grad_input
    )
    config, lattice, (apart_h, apart_w) = plan.config, plan.lattice, plan.apart
    inverse_h = pow(plan.shift, -1, apart_h)
    inverse_w = pow(dilation_w * apart_w // lattice[1], -1, apart_w)
    vector = _vector(channels, images) if multiplier == 1 else 1
    packed = source_unit == "c"
    pixels = (*source.shape[2:], *output.shape[2:], *geometry[2:6])
    grid = grid_of(name, (plan.programs, *source.shape[:2], channels, weight.numel()), pixels)
    with launching(name, source, config):
        kernel.stencil_kernel[grid](
            source,
            pack(weight) if packed else weight,
            bias,
            grad,
            output,
            *_strides(source, vector),
            *_strides(output, vector),
            *(_strides(grad, vector) if grad is not None else (0, 0, 0, 0)),
            *(weight.stride(0), *weight.stride()[2:]),
            bias.stride(0) if bias is not None else 0,
            channels // vector,
            *source.shape[2:],
            height,
            width,
            kernel_w,
            top,
            left,
            plan.row_blocks,
            plan.column_blocks,
            plan.channel_blocks,
            SOURCE_UNIT=source_unit,
            OUTPUT_UNIT=unit(output),
            GRAD_UNIT=unit(grad) if grad is not None else "",
            VECTOR=vector,
            PACKED=packed,
            WIDE=_is_wide(images, weight, bias),
            GRAD_INPUT=grad_input,
            MULTIPLIER=multiplier,
            KERNEL_H=kernel_h,
            STRIDE_H=stride_h,
            STRIDE_W=stride_w,
            DILATION_H=dilation_h,
            DILATION_W=dilation_w,
            TAPS_APART_H=apart_h,
            TAPS_APART_W=apart_w,
            INVERSE_H=inverse_h,
            INVERSE_W=inverse_w,
            ACTIVATION=activation,
            ROWS=config.rows,
            COLUMNS=config.columns,
            CHANNELS=config.channels,
            TAPS=config.taps,
            num_warps=config.warps,
            maxnreg=config.registers,
        )


def weight_grad(
    name: str,
    input: Tensor,
    grad: Tensor,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    kernel_size: tuple[int, int],
    geometry: tuple[int, ...],
) -> None:
    """Writes grad_weight (C * M, 1, kH, kW) and grad_bias (C * M,), contiguous, where not None.

    Args:
        name, geometry: as for `stencil`.
        input: (N, C, H, W). grad: (N, C * M, H', W'), of the output before its activation.

    Raises:
        RuntimeError: more than 2**31 - 1 tiles, or 2**29 rows or columns.
    """
    stride_h, stride_w, top, _, left, _, dilation_h, dilation_w = geometry
    kernel_h, kernel_w = kernel_size
    _, channels, out_height, out_width = grad.shape
    multiplier = channels // input.shape[1]
    input_unit = unit(input)
    plan = configs.plan_weight_grad(
        input_unit, input.element_size(), tuple(grad.shape), kernel_size, dilation_h
    )
    config = plan.config
    vector = 1
    if multiplier == 1 and not _are_far_apart(input, grad):
        vector = _vector(channels, (input, grad))
    taps = kernel_h * kernel_w
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    count = (taps if grad_bias is None else taps + 1) * channels
    counts = (plan.programs, plan.tiles + config.splits, *input.shape[:2], (taps + 1) * channels)
    grid = grid_of(name, counts, (*input.shape[2:], out_height, out_width, *geometry[2:6]))
    with launching(name, input, config):
        partial = torch.empty(plan.partial, dtype=dtype, device=input.device)
        weight_grad_kernel.weight_grad_kernel[grid](
            input,
            grad,
            partial,
            *_strides(input, vector),
            *_strides(grad, vector),
            channels // vector,
            *input.shape[2:],
            out_height,
            out_width,
            kernel_h,
            kernel_w,
            top,
            left,
            plan.row_blocks,
            plan.column_blocks,
            plan.channel_blocks,
            plan.tap_columns,
            plan.tap_blocks,
            plan.tiles,
            triton.cdiv(plan.tiles, config.splits),
            INPUT_UNIT=input_unit,
            GRAD_UNIT=unit(grad),
            VECTOR=vector,
            WIDE=_is_wide((input, grad)),
            BIAS=grad_bias is not None,
            RAGGED=out_height % config.rows != 0,
            MULTIPLIER=multiplier,
            STRIDE_H=stride_h,
            STRIDE_W=stride_w,
            DILATION_H=dilation_h,
            DILATION_W=dilation_w,
            ROWS=config.rows,
            COLUMNS=config.columns,
            CHANNELS=config.channels,
            TAPS_H=config.taps_h,
            TAPS_W=config.taps_w,
            num_warps=config.warps,
        )
        weight_grad_kernel.weight_grad_reduce_kernel[(triton.cdiv(count, _BLOCK),)](
            partial,
            grad_weight,
            grad_bias,
            channels,
            taps,
            count,
            config.splits,
            BLOCK=_BLOCK,
        )
