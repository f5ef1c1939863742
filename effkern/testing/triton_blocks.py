"""The Triton launches of whole blocks of real models, without a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

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


class Product(NamedTuple):
    """A 1x1 convolution of square images, with what surrounds it in its block."""

    channels: int
    out: int
    size: int
    operands: tuple[str, ...] = ("bias",)
    activation: str | None = None
    input_activation: str | None = None
    batch: int = BATCH

    @property
    def name(self) -> str:
        words = (*self.operands, self.activation or self.input_activation)
        widths = f"{self.channels}-{self.out}@{self.size} batch {self.batch}"
        return f"{widths} {' '.join(word for word in words if word)}"


class MLP(NamedTuple):
    """fc1, GELU, fc2, layer scale and residual of a ConvNeXt block, of square images."""

    channels: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.channels}-{4 * self.channels}-{self.channels}@{self.size} mlp"


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
MLPS = (MLP(96, 56), MLP(192, 28))
# One for each form: efficientnet_b0's expansion and projection, of large and small images and
# batches; coatnet_0_rw's gate before the norm; fc1 and fc2 of convnext_tiny; fc2 of its V2.
PRODUCTS = (
    Product(24, 144, 56, activation="silu"),
    Product(144, 24, 56, ("gate", "bias", "residual")),
    Product(672, 112, 14, ("gate", "bias", "residual")),
    Product(672, 112, 14, ("gate", "bias", "residual"), batch=1),
    Product(768, 192, 28, ("gate", "shift", "bias", "residual"), input_activation="silu"),
    Product(384, 1536, 14, activation="gelu"),
    Product(1536, 384, 14, ("bias", "scale", "residual")),
    Product(1536, 384, 14, ("gate", "shift", "bias", "residual")),
)


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


def run_product(product: Product, dtype: torch.dtype, batch: int | None = None) -> None:
    """Launches the kernel of a 1x1 convolution, on meta tensors."""
    from ..triton_kernels.pointwise import launch

    batch, last = batch or product.batch, torch.channels_last
    size = (product.size, product.size)
    input = torch.empty(
        (batch, product.channels, *size), dtype=dtype, device="meta", memory_format=last
    )
    output = torch.empty(
        (batch, product.out, *size), dtype=dtype, device="meta", memory_format=last
    )
    wide = torch.empty((batch, product.channels), device="meta")
    vectors: dict[str, Any] = {"gate": wide, "shift": wide[0], "residual": output}
    vectors |= {"bias": input.new_empty(product.out), "scale": input.new_empty(product.out)}
    operands = {name: vectors[name] for name in product.operands}
    launch.forward(
        "pointwise",
        input,
        input.new_empty(product.out, product.channels),
        operands.pop("bias"),
        output,
        activation=ACTIVATIONS[product.activation],
        input_activation=ACTIVATIONS[product.input_activation],
        **operands,
    )


def run_mlp(mlp: MLP, dtype: torch.dtype, batch: int = BATCH) -> None:
    """Launches the kernel of fc1, GELU and fc2, on meta tensors."""
    from ..triton_kernels.fused_mbconv import launch

    shape = (batch, mlp.channels, mlp.size, mlp.size)
    input = torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
    hidden = 4 * mlp.channels
    weight, project = (input.new_empty(hidden, mlp.channels, 1, 1) for _ in range(2))
    vector = input.new_empty(mlp.channels)
    launch.forward(
        *("convnext_block", input, weight, input.new_empty(hidden), project.view(-1, hidden)),
        *(vector, input, torch.empty_like(input), (1, 1, 0, 0), ACTIVATIONS["gelu"], vector),
    )


_RUN: dict[type, Any] = {FusedBlock: run, NormLayer: run_norm, Product: run_product, MLP: run_mlp}


def launches(capability: int, dtypes: Iterable[torch.dtype]) -> dict[str, LayerLaunch]:
    """The distinct launches of all blocks and dtypes, by fingerprint; see triton_layers."""
    found: dict[str, LayerLaunch] = {}
    for dtype in dtypes:
        for block in (*FUSED, *NORMS, *MLPS, *PRODUCTS):
            with recorded_launches(capability) as recorded:
                _RUN[type(block)](block, dtype)
            for launch in recorded:
                name = f"{block.name} {str(dtype)[6:]} {launch.kernel.removesuffix('_kernel')}"
                found.setdefault(launch.fingerprint, LayerLaunch(name, block, launch))
    return found
