"""One standard problem for each CUDA kernel, and its predicted time on it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from .. import registry
from ..kernel_names import short_name
from ..ops.depthwise_conv2d import ACTIVATIONS
from ..ops.depthwise_conv2d.fused import SUMS
from .launch_facts import cuda_facts
from .launches import Launch, record_call, recorded_launches
from .predictions import Predicted, predicted

_BATCH, _CHANNELS, _SIZE = 32, 256, 56
# The contiguous 3x3 kernel of stride 1 has other tiles for these.
_OTHER_SIZES = (28, 14, 10, 5)
# And its weight gradient of stride 2, for outputs that are no multiples of 7.
_STRIDED_SIZE = 19
# float16's kernels differ from bfloat16's in conversions only.
_DTYPES = (torch.bfloat16, torch.float32)
_LAYOUTS = (torch.channels_last, torch.contiguous_format)
# Kernel size, stride, dilation; the last is one that no specialised kernel computes.
_KERNELS = ((3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (7, 1, 1), (3, 1, 2))
# The contiguous input gradient of stride 2 has other kernels for other parities of the padding:
# kernel size, padding.
_OTHER_PADS = ((3, 0), (5, 1))
# Where 5x5 and 7x7 of 16-bit types take other kernels: layout, channels, size.
_OTHERS = (
    (torch.channels_last, 252, _SIZE),
    (torch.contiguous_format, _CHANNELS, 14),
    (torch.contiguous_format, 4096, 7),
)
# One size for each weight gradient of large kernels on tensor cores.
_LARGE_KERNELS = (31, 51)
# Of fused_mbconv: channels, expanded and projected ones, where 0 is no projection.
_BLOCKS = ((24, 24, 0), (48, 192, 48), (96, 128, 96))
# Of pointwise: channels in and out, gate, activation.
_PRODUCTS = (
    (24, 144, False, True),
    (16, 64, False, True),
    (384, 96, False, False),
    (192, 64, False, False),
    (240, 80, True, False),
    (144, 40, True, False),
)
# Of depthwise_conv2d_layer_norm: dtype, channels, kernel size. The last one keeps its weights in 16
# bits.
_NORMS = (
    *((dtype, _CHANNELS, kernel) for dtype in _DTYPES for kernel in (3, 5, 7)),
    (torch.bfloat16, 768, 7),
)
# channels_last: transposed in shared memory; copied as planes.
_LARGE_KERNELS_LAST = (13, 23)
# Enough to compare a kernel with itself.
_LANES = 512


class Standard(NamedTuple):
    """The first launch of a kernel; pixels that its call computes; bytes of its operands."""

    launch: Launch
    outputs: int
    distinct: int


def standard_launches() -> dict[str, Standard]:
    """By the kernel's short name: those that a stride of 1 or 2 and no activation lead to; with
    hooks those of a scale, a shift and SiLU of the input, and sums of each channel."""
    found: dict[str, Standard] = {}
    for dtype in _DTYPES:
        for layout in _LAYOUTS:
            for kernel, stride, dilation in _KERNELS:
                _add(found, dtype, layout, kernel, stride, dilation)
                if dilation == 1:
                    _add_hooked(found, dtype, layout, kernel, stride)
        for size in _OTHER_SIZES:
            _add(found, dtype, torch.contiguous_format, 3, 1, 1, size=size)
        _add(found, dtype, torch.contiguous_format, 3, 2, 1, size=_STRIDED_SIZE)
        for kernel, pad in _OTHER_PADS:
            _add(found, dtype, torch.contiguous_format, kernel, 2, 1, passes=("dgrad",), pad=pad)
    for layout, channels, size in _OTHERS:
        for kernel in (5, 7):
            _add(found, torch.bfloat16, layout, kernel, 1, 1, channels, size)
            if channels % 8 == 0:
                _add_hooked(found, torch.bfloat16, layout, kernel, 1, channels, size)
    for kernel in _LARGE_KERNELS:
        _add(found, torch.bfloat16, torch.contiguous_format, kernel, 1, 1, passes=("wgrad",))
    for norm in _NORMS:
        _add_layer_norm(found, *norm)
    for block in _BLOCKS:
        _add_fused_mbconv(found, *block)
    for product in _PRODUCTS:
        _add_pointwise(found, *product)
    for kernel in _LARGE_KERNELS_LAST:
        _add(found, torch.bfloat16, torch.channels_last, kernel, 1, 1, passes=("fwd",))
    return found


def _add_fused_mbconv(found: dict[str, Standard], channels: int, hidden: int, out: int) -> None:
    """3x3 with SiLU and the input as residual."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)

    image = empty(_BATCH, channels, _SIZE, _SIZE)
    weight, projection = empty(hidden, channels, 3, 3), torch.empty((out, hidden)).bfloat16()
    with recorded_launches() as launches:
        torch.ops.effkern_emulated.fused_mbconv(
            image, weight, None, projection if out else None, None, None, image, 1, 1, 1, 1, 1, 1,
            ACTIVATIONS["silu"], registry.BACKENDS["cuda_emulated"],
        )  # fmt: skip
    distinct = 2 * (2 * image.numel() + weight.numel() + projection.numel())
    found[short_name(launches[0].kernel)] = Standard(launches[0], image.numel(), distinct)


def _add_layer_norm(
    found: dict[str, Standard], dtype: torch.dtype, channels: int, kernel: int
) -> None:
    """Without saving statistics."""
    input, output, weight, geometry = _operands(
        dtype, torch.channels_last, kernel, 1, 1, channels, _SIZE
    )
    bias, norm = torch.empty(channels, dtype=dtype), torch.empty(channels)
    with recorded_launches() as launches:
        torch.ops.effkern_emulated.depthwise_conv2d_layer_norm_forward(
            input, weight, bias, norm, norm, 1e-6, *geometry[2:6], False,
            registry.BACKENDS["cuda_emulated"],
        )  # fmt: skip
    distinct = dtype.itemsize * (input.numel() + output.numel() + weight.numel())
    found[short_name(launches[0].kernel)] = Standard(launches[0], output.numel(), distinct)


def _add_pointwise(
    found: dict[str, Standard], channels: int, out: int, gated: bool, activated: bool
) -> None:
    """With bias, a residual where nothing is activated, or SiLU."""

    def image(channels: int) -> torch.Tensor:
        shape = (_BATCH, channels, _SIZE, _SIZE)
        return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)

    input, output = image(channels), image(out)
    weight, bias = torch.empty((out, channels)).bfloat16(), torch.empty(out).bfloat16()
    with recorded_launches() as launches:
        torch.ops.effkern_emulated.pointwise(
            input, weight, bias, torch.empty((_BATCH, channels)).bfloat16() if gated else None,
            None, None if activated else output, ACTIVATIONS["silu"] if activated else 0,
            registry.BACKENDS["cuda_emulated"],
        )  # fmt: skip
    numbers = input.numel() + weight.numel() + output.numel() * (1 if activated else 2)
    found[short_name(launches[0].kernel)] = Standard(launches[0], output.numel(), 2 * numbers)


def _operands(
    dtype: torch.dtype,
    layout: torch.memory_format,
    kernel: int,
    stride: int,
    dilation: int,
    channels: int,
    size: int,
    pad: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Input, output and weight, which hold nothing, and the geometry; padding of half the kernel,
    unless `pad` says another."""

    def image(size: int) -> torch.Tensor:
        shape = (_BATCH, channels, size, size)
        return torch.empty(shape, dtype=dtype, memory_format=layout)

    reach = dilation * (kernel - 1)
    pad = reach // 2 if pad is None else pad
    weight = torch.empty((channels, 1, kernel, kernel), dtype=dtype)
    geometry = (stride, stride, pad, pad, pad, pad, dilation, dilation)
    return image(size), image((size + 2 * pad - reach - 1) // stride + 1), weight, geometry


def _add_hooked(
    found: dict[str, Standard],
    dtype: torch.dtype,
    layout: torch.memory_format,
    kernel: int,
    stride: int,
    channels: int = _CHANNELS,
    size: int = _SIZE,
) -> None:
    input, output, weight, geometry = _operands(dtype, layout, kernel, stride, 1, channels, size)
    scale = torch.empty(channels)
    integers = (0, ACTIVATIONS["silu"], SUMS["channel"], registry.BACKENDS["cuda_emulated"])
    with recorded_launches() as launches:
        torch.ops.effkern_emulated.depthwise_conv2d_fused(
            input, weight, None, scale, scale, *geometry, *integers
        )
    distinct = dtype.itemsize * (input.numel() + output.numel() + weight.numel())
    for launch in launches:
        standard = Standard(launch, output.numel(), distinct)
        found.setdefault(short_name(launch.kernel), standard)


def _add(
    found: dict[str, Standard],
    dtype: torch.dtype,
    layout: torch.memory_format,
    kernel: int,
    stride: int,
    dilation: int,
    channels: int = _CHANNELS,
    size: int = _SIZE,
    passes: tuple[str, ...] = ("fwd", "dgrad", "wgrad", "grads"),
    pad: int | None = None,
) -> None:
    input, output, weight, geometry = _operands(
        dtype, layout, kernel, stride, dilation, channels, size, pad
    )
    distinct = dtype.itemsize * (input.numel() + output.numel() + weight.numel())
    for pass_ in passes:
        outputs = (input if pass_ == "dgrad" else output).numel()
        # The gradients together read both images and write one more.
        moved = distinct + dtype.itemsize * input.numel() * (pass_ == "grads")
        for launch in record_call(pass_, input, weight, None, output, geometry):
            standard = Standard(launch, outputs, moved)
            found.setdefault(short_name(launch.kernel), standard)


def predictions(library: Path, capability: int) -> dict[str, Predicted]:
    """Of every kernel of a built library that has a standard problem, by its short name.

    Raises:
        RuntimeError: the emulated library, which the launchers run in, is not there.
    """
    return {
        name: predicted(
            cuda_facts(standard.launch, library, capability, lanes=_LANES),
            standard.outputs, standard.distinct, _BATCH, capability,
        )
        for name, standard in standard_launches().items()
        # What adds up the splits touches no operand, and takes as long as a launch.
        if "_reduce_" not in name
    }  # fmt: skip
