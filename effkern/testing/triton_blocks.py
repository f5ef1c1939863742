"""The Triton launches of whole blocks of real models, without a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from ..ops.depthwise_conv2d.arguments import ACTIVATIONS
from .triton_layers import BATCH, LayerLaunch
from .triton_stub import recorded_launches


class FusedBlock(NamedTuple):
    """A FusedMBConv block; `size` is that of its input, `out` is None for expand ratio 1."""

    channels: int
    expanded: int
    out: int | None
    stride: int
    size: int

    @property
    def name(self) -> str:
        numbers = (self.channels, self.expanded, self.out)
        widths = "-".join(str(number) for number in numbers if number is not None)
        return f"{widths}@{self.size} k3 s{self.stride}"


class NormLayer(NamedTuple):
    """A depthwise 7x7 convolution with LayerNorm, of square images."""

    channels: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.channels}@{self.size} k7 s1"


# Those of timm's tf_efficientnetv2_s at 300 pixels, 3x3, with SiLU.
FUSED = (
    FusedBlock(24, 24, None, 1, 150),
    FusedBlock(24, 96, 48, 2, 150),
    FusedBlock(48, 192, 48, 1, 75),
    FusedBlock(48, 192, 64, 2, 75),
    FusedBlock(64, 256, 64, 1, 38),
)
# Those of timm's convnext_tiny.
NORMS = (NormLayer(96, 56), NormLayer(192, 28), NormLayer(384, 14), NormLayer(768, 7))


def run(
    block: FusedBlock, dtype: torch.dtype, batch: int = BATCH, activation: str = "silu"
) -> None:
    """Launches the block's kernel, on meta tensors."""
    from ..triton_kernels.fused_mbconv import launch

    def image(channels: int, size: int) -> torch.Tensor:
        shape = (batch, channels, size, size)
        last = torch.channels_last
        return torch.empty(shape, dtype=dtype, device="meta", memory_format=last)

    out, size = block.out or block.expanded, (block.size - 1) // block.stride + 1
    input, output = image(block.channels, block.size), image(out, size)
    weight = input.new_empty((block.expanded, block.channels, 3, 3))
    bias, project_bias = weight.new_empty(block.expanded), weight.new_empty(out)
    project = None if block.out is None else weight.new_empty(out, block.expanded)
    launch.forward(
        "fused_mbconv",
        input,
        weight.contiguous(memory_format=torch.channels_last),
        bias,
        project,
        None if project is None else project_bias,
        image(out, size) if out == block.channels and block.stride == 1 else None,
        output,
        (block.stride, block.stride, 1, 1),
        ACTIVATIONS[activation],
    )


def run_norm(norm: NormLayer, dtype: torch.dtype, batch: int = BATCH) -> None:
    """Launches the kernels of a depthwise 7x7 convolution with LayerNorm, on meta tensors."""
    from ..triton_kernels.depthwise_conv2d_layer_norm import launch

    shape = (batch, norm.channels, norm.size, norm.size)
    last = torch.channels_last
    input = torch.empty(shape, dtype=dtype, device="meta", memory_format=last)
    weight, bias = input.new_empty(norm.channels, 1, 7, 7), input.new_empty(norm.channels)
    scale = torch.empty(norm.channels, device="meta")
    launch.forward(
        *("depthwise_conv2d_layer_norm", input, weight, bias, scale, scale, 1e-6),
        *(torch.empty_like(input), (3, 3)),
    )


def launches(capability: int, dtypes: Iterable[torch.dtype]) -> dict[str, LayerLaunch]:
    """The distinct launches of all blocks and dtypes, by fingerprint; see triton_layers."""
    found: dict[str, LayerLaunch] = {}
    for dtype in dtypes:
        for block in (*FUSED, *NORMS):
            with recorded_launches(capability) as recorded:
                if isinstance(block, FusedBlock):
                    run(block, dtype)
                else:
                    run_norm(block, dtype)
            for launch in recorded:
                name = f"{block.name} {str(dtype)[6:]} {launch.kernel.removesuffix('_kernel')}"
                found.setdefault(launch.fingerprint, LayerLaunch(name, block, launch))
    return found
