"""Arguments of mbconv for tests, and the same of torch's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference.depthwise_conv2d import ACTIVATIONS

# Of the tensors and the tuple of squeeze-and-excitation, in the order of the function's parameters.
NAMES = (
    "input", "expand_weight", "expand_bias", "depthwise_weight", "depthwise_bias", "se",
    "project_weight", "project_bias", "residual",
)  # fmt: skip
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
}


def problem(
    batch: int = 3,
    channels: int = 8,
    hidden: int = 24,
    out: int = 8,
    size: tuple[int, int] = (9, 8),
    kernel: int = 3,
    stride: int = 1,
    dtype: torch.dtype = torch.float32,
    without: tuple[str, ...] = (),
    reduced: int = 4,
    names: tuple[str | None, str] = ("silu", "sigmoid"),
) -> dict[str, Any]:
    """The arguments by name, weights as of 1x1 convolutions; those in `without` are None. `reduced`
    and `names` are of squeeze-and-excitation."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    if "expand_weight" in without:
        hidden, without = channels, (*without, "expand_bias")
    output = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in size]
    tensors = {
        "input": draw(batch, channels, *size),
        "expand_weight": draw(hidden, channels, 1, 1, scale=channels**-0.5),
        "expand_bias": draw(hidden),
        "depthwise_weight": draw(hidden, 1, kernel, kernel, scale=1 / kernel),
        "depthwise_bias": draw(hidden),
        "se": (
            draw(reduced, hidden, 1, 1, scale=hidden**-0.5), draw(reduced),
            draw(hidden, reduced, 1, 1, scale=reduced**-0.5), draw(hidden), *names,
        ),
        "project_weight": draw(out, hidden, 1, 1, scale=hidden**-0.5),
        "project_bias": draw(out),
        "residual": draw(batch, out, *output),
    }  # fmt: skip
    return {name: None if name in without else tensors[name] for name in NAMES} | {
        "stride": stride,
        "padding": kernel // 2,
    }


def reference(
    input: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    se: Any,
    project_weight: Tensor,
    project_bias: Tensor | None,
    residual: Tensor | None,
    stride: int,
    padding: int,
    activation: str | None = "silu",
) -> Tensor:
    """mbconv of torch's operators, weights as of 1x1 convolutions."""
    act = ACTIVATIONS[activation]
    if expand_weight is not None:
        input = act(F.conv2d(input, expand_weight, expand_bias))
    groups = depthwise_weight.shape[0]
    y = act(F.conv2d(input, depthwise_weight, depthwise_bias, stride, padding, 1, groups))
    if se is not None:
        gate = ACTIVATIONS[se[4]](F.conv2d(y.mean((2, 3), keepdim=True), se[0], se[1]))
        y = y * GATES[se[5]](F.conv2d(gate, se[2], se[3]))
    y = F.conv2d(y, project_weight, project_bias)
    return y if residual is None else y + residual
