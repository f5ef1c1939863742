"""Squeeze-and-excitation: from sums of an image to its gate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..depthwise_conv2d import fallback

GATES: dict[str, Any] = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}


class Arguments(NamedTuple):
    """What mbconv was given, checked; 1x1 convolutions as matrices."""

    reduce_weight: Tensor
    reduce_bias: Tensor | None
    expand_weight: Tensor
    expand_bias: Tensor | None
    activation: int
    gate: str


def gate(sums: Tensor, pixel_count: int, se: Arguments, dtype: torch.dtype) -> Tensor:
    """(N, E) factors of the channels of each image, from sums over its pixels, in `dtype`."""
    mean = (sums / pixel_count).to(dtype)
    reduced = F.linear(mean, se.reduce_weight, se.reduce_bias)
    reduced = fallback.activate(reduced, se.activation)
    return GATES[se.gate](F.linear(reduced, se.expand_weight, se.expand_bias))
