"""Arguments of fused_mbconv for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Of the tensors, in the order of the function's parameters.
NAMES = ("input", "expand_weight", "expand_bias", "project_weight", "project_bias", "residual")

Padding = tuple[tuple[int, int], tuple[int, int]]


def problem(
    batch: int = 3,
    channels: int = 8,
    hidden: int = 24,
    out: int = 8,
    size: tuple[int, int] = (9, 8),
    kernel: int = 3,
    stride: int = 1,
    padding: Padding | None = None,
    dtype: torch.dtype = torch.float32,
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The arguments by name; those in `without` are None. Without a padding that of "same" for odd
    kernels."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    if "project_weight" in without:
        out, without = hidden, (*without, "project_bias")
    pads = padding or ((kernel // 2, kernel // 2),) * 2
    output = [
        (side + sum(pad) - kernel) // stride + 1 for side, pad in zip(size, pads, strict=True)
    ]
    tensors = {
        "input": draw(batch, channels, *size),
        "expand_weight": draw(hidden, channels, kernel, kernel, scale=channels**-0.5 / kernel),
        "expand_bias": draw(hidden),
        "project_weight": draw(out, hidden, 1, 1, scale=hidden**-0.5),
        "project_bias": draw(out),
        "residual": draw(batch, out, *output),
    }
    return {name: None if name in without else tensors[name] for name in NAMES} | {
        "stride": stride,
        "padding": padding or kernel // 2,
    }
