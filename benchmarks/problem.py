"""One pass of one layer: its arithmetic, its traffic, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .workloads import Layer

PASSES = ("fwd", "dgrad", "wgrad")
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def valid_taps(size: int, outputs: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Pairs of output and tap, in one dimension, that meet a pixel and not the padding."""
    return sum(
        0 <= output * stride - pad + tap * dilation < size
        for output in range(outputs)
        for tap in range(kernel)
    )


@dataclass(frozen=True)
class Problem:
    """A pass ("fwd", "dgrad" or "wgrad") of a layer with symmetric padding."""

    layer: Layer
    pass_: str
    dtype: str = "float32"
    batch: int = 1
    device: str = "cpu"

    @property
    def flops(self) -> int:
        """Two per valid tap: every pass multiplies the same pairs. Bias is not counted."""
        layer = self.layer
        rows = valid_taps(
            layer.height, layer.out_height, layer.kernel_h,
            layer.stride_h, layer.pad_top, layer.dilation_h,
        )  # fmt: skip
        columns = valid_taps(
            layer.width, layer.out_width, layer.kernel_w,
            layer.stride_w, layer.pad_left, layer.dilation_w,
        )  # fmt: skip
        return 2 * self.batch * layer.out_channels * rows * columns

    @property
    def bytes(self) -> int:
        """Image, output image and weight, once each: two of them read, the third written."""
        layer = self.layer
        images = layer.channels * layer.height * layer.width
        outputs = layer.out_channels * layer.out_height * layer.out_width
        weights = layer.out_channels * layer.kernel_h * layer.kernel_w
        return DTYPES[self.dtype].itemsize * (self.batch * (images + outputs) + weights)


@dataclass
class Tensors:
    """The operands of a problem; the images in one layout, the weight as a module would hold it."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    grad_output: Tensor

    def to(self, layout: str) -> Tensors:
        """Fresh copies in another layout ("contiguous" or "channels_last"), values unchanged."""

        def copy(tensor: Tensor) -> Tensor:
            return tensor.clone(memory_format=LAYOUTS[layout])

        bias = None if self.bias is None else self.bias.clone()
        return Tensors(copy(self.input), copy(self.weight), bias, copy(self.grad_output))


def random_tensors(problem: Problem, seed: int = 0) -> Tensors:
    """Fresh normal random operands, contiguous; weights scaled as for training."""
    layer, generator = problem.layer, torch.Generator(problem.device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        # On the device: a CPU needs seconds for the images of a large batch.
        values = torch.randn(shape, generator=generator, device=problem.device)
        return values.to(DTYPES[problem.dtype])

    taps = layer.kernel_h * layer.kernel_w
    return Tensors(
        normal(problem.batch, layer.channels, layer.height, layer.width),
        normal(layer.out_channels, 1, layer.kernel_h, layer.kernel_w) / taps**0.5,
        normal(layer.out_channels) if layer.bias else None,
        normal(problem.batch, layer.out_channels, layer.out_height, layer.out_width),
    )
