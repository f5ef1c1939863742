"""The problems and memory layouts that operators are tested on, chosen by edge class.

An edge class is a value of one dimension at which a kernel may take another path: zero, one, below,
at and above a tile, a multiple of it, a prime. Everything else stays at a small default, so that a
failure names its cause.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product

import torch
from torch import Tensor

Pair = tuple[int, int]
Padding = int | Pair | str | tuple[Pair, Pair]


@dataclass(frozen=True)
class DepthwiseConv2dCase:
    """One depthwise convolution: sizes, and the arguments of `effkern.functional`'s function."""

    batch: int = 2
    channels: int = 5
    height: int = 9
    width: int = 10
    kernel: Pair = (3, 3)
    multiplier: int = 1
    stride: Pair = (1, 1)
    padding: Padding = 1
    dilation: Pair = (1, 1)
    bias: bool = True

    @property
    def id(self) -> str:
        """What differs from the default, as a pytest id."""
        changes = (
            (f.name, getattr(self, f.name))
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        text = "-".join(f"{name}={value}" for name, value in changes) or "default"
        return text.replace(" ", "").replace("'", "")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.channels * self.multiplier, 1, *self.kernel)

    @property
    def borders(self) -> tuple[int, int, int, int]:
        """Rows and columns of zeros: (top, bottom, left, right); "same" adds the odd one last."""
        padding = self.padding
        if isinstance(padding, int):
            return (padding,) * 4
        if isinstance(padding, str):
            same = padding == "same"
            rows, cols = (
                d * (k - 1) * same for d, k in zip(self.dilation, self.kernel, strict=True)
            )
            return (rows // 2, rows - rows // 2, cols // 2, cols - cols // 2)
        vertical, horizontal = (
            side if isinstance(side, tuple) else (side, side) for side in padding
        )
        return (*vertical, *horizontal)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        top, bottom, left, right = self.borders
        padded = (self.height + top + bottom, self.width + left + right)
        out_h, out_w = (
            (size - d * (k - 1) - 1) // s + 1
            for size, d, k, s in zip(padded, self.dilation, self.kernel, self.stride, strict=True)
        )
        return (self.batch, self.channels * self.multiplier, out_h, out_w)

    @property
    def geometry(self) -> tuple[int, ...]:
        """The eight integers of the operators: strides, borders, dilations."""
        return (*self.stride, *self.borders, *self.dilation)

    @property
    def kwargs(self) -> dict:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def tensors(
        self, dtype: torch.dtype, device: str = "cpu", layout: str = "contiguous", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Random (input, weight, bias or None, grad_output); the same for the same arguments."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.id.encode()) + seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

        return (
            with_layout(draw(*self.input_shape), layout),
            with_layout(draw(*self.weight_shape), _WEIGHT_LAYOUTS.get(layout, layout)),
            draw(self.weight_shape[0]) if self.bias else None,
            with_layout(draw(*self.output_shape), layout),
        )


LAYOUTS = (
    "contiguous",
    "channels_last",
    "transposed",
    "sliced",
    "expanded_batch",
    "expanded_width",
)

# Taps that are all the same, times pixels that are, are sums whose every rounding goes one way.
_WEIGHT_LAYOUTS = {"expanded_width": "expanded_batch"}


def with_layout(tensor: Tensor, layout: str) -> Tensor:
    """`tensor` in another memory layout; the expanded ones repeat its first image or column."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced":
        # Every other channel, row and column of a tensor whose remaining elements are NaN.
        batch, *rest = tensor.shape
        whole = tensor.new_full((batch, *(2 * size + 1 for size in rest)), torch.nan)
        return whole[:, 1::2, 1::2, 1::2].copy_(tensor)
    if layout == "expanded_batch":
        return tensor[:1].expand_as(tensor)
    if layout == "expanded_width":
        return tensor[..., :1].expand_as(tensor)
    raise ValueError(f"layout: wanted one of {LAYOUTS}, got {layout!r}")


def _cases() -> Iterator[DepthwiseConv2dCase]:
    case = DepthwiseConv2dCase
    yield case()
    yield case(bias=False)
    yield from (case(batch=n) for n in (0, 1, 3))
    # Around vectors of 4, 8 and 16 elements, tiles of one to four vectors, and primes.
    for c in (1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 97):
        yield case(channels=c, height=5, width=6)
    for w in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 129):
        yield case(height=4, width=w)
    for h in (1, 2, 3, 4, 7, 8, 13, 16, 17, 32, 33, 64, 65):
        yield case(height=h, width=6)
    # One dimension dominates.
    yield case(batch=61, channels=2, height=4, width=5)
    yield case(batch=1, channels=257, height=3, width=4)
    yield case(batch=1, channels=2, height=251, width=3)
    yield case(batch=1, channels=2, height=3, width=509)
    yield case(batch=1, channels=1, height=40, width=41)
    yield case(batch=1, channels=33, height=1, width=1)
    # Kernel sizes.
    for k in (1, 2, 4, 5, 6, 7, 9, 13):
        yield case(kernel=(k, k), padding=k // 2, height=14, width=15)
    for k in (31, 51):
        yield case(kernel=(k, k), padding=k // 2, batch=1, channels=3, height=17, width=19)
    for kernel in ((51, 5), (5, 51), (1, 11), (11, 1), (3, 7), (2, 5), (4, 1)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        yield case(kernel=kernel, padding=padding, channels=3, height=16, width=18)
    # A single output pixel, of enough images and channels to know torch's error by.
    yield case(kernel=(9, 10), padding=0, batch=4, channels=64)
    yield case(kernel=(51, 51), padding=0, batch=1, channels=2, height=54, width=53)
    # Strides, also beyond the kernel, alone and with the rest.
    for stride in ((2, 2), (3, 3), (4, 4), (1, 2), (2, 1), (3, 2)):
        yield case(stride=stride, height=13, width=17)
    yield case(stride=(5, 7), kernel=(2, 3), padding=0, height=13, width=17)
    yield case(stride=(20, 20))
    yield case(stride=(2, 2), kernel=(5, 5), padding=2, height=16, width=33)
    yield case(stride=(2, 2), kernel=(7, 7), padding=3, channels=17, height=14, width=14)
    yield case(stride=(2, 2), kernel=(1, 1), padding=0)
    # Fewer pixels than the stride: not every tap meets one.
    yield case(stride=(2, 2), channels=17, height=1, width=1)
    # Dilations.
    for dilation in ((2, 2), (3, 3), (1, 2), (3, 1)):
        yield case(dilation=dilation, padding=2, height=13, width=17)
    yield case(dilation=(2, 3), stride=(3, 2), kernel=(3, 5), padding=(3, 6), height=13, width=17)
    yield case(dilation=(5, 5), kernel=(2, 2), padding=0)
    # Every border alone, then together; kernels as large as the padded image; output made of
    # padding only.
    for top, bottom, left, right in product((0, 1), repeat=4):
        if top + bottom + left + right == 1:
            yield case(padding=((top, bottom), (left, right)))
    yield case(padding=((0, 1), (0, 1)), stride=(2, 2), height=8, width=8)
    yield case(padding=((2, 3), (4, 1)), kernel=(5, 5), stride=(2, 1))
    yield case(padding=((0, 2), (3, 0)), dilation=(2, 2))
    yield case(padding=0)
    yield case(padding=(0, 2))
    yield case(padding=(2, 0))
    yield case(padding=5)
    yield case(padding=(1, 1), height=1, width=1)
    yield case(padding=2, kernel=(5, 5), height=2, width=3)
    yield case(padding=3, kernel=(7, 7), height=7, width=7, channels=16)
    yield case(padding="valid")
    yield case(padding="same")
    yield case(padding="same", kernel=(4, 4))
    yield case(padding="same", kernel=(2, 5), dilation=(3, 2))
    # Depth multipliers.
    for m in (2, 3, 4):
        yield case(multiplier=m)
    yield case(multiplier=8, channels=1)
    yield case(multiplier=2, channels=16, stride=(2, 2), kernel=(5, 5), padding=2, bias=False)


DEPTHWISE_CONV2D_CASES: tuple[DepthwiseConv2dCase, ...] = tuple(_cases())
