"""A depthwise layer as the adapters take it and hand it back; no PyTorch in their processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..workloads import Layer


@dataclass(frozen=True)
class Operands:
    """A forward pass: float32 arrays, contiguous.

    Attributes:
        input: (batch, channels, height, width).
        weight: (out_channels, 1, kernel_h, kernel_w).
        bias: (out_channels,) or None.
    """

    layer: Layer
    input: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        layer = self.layer
        return (len(self.input), layer.out_channels, layer.out_height, layer.out_width)


@dataclass(frozen=True)
class Exported:
    """A forward pass that is an ONNX model already: input "x", output "y", float32.

    Attributes:
        model: serialized.
    """

    input: np.ndarray
    output_shape: tuple[int, ...]
    model: bytes


@dataclass(frozen=True)
class Model:
    """A layer in a runtime.

    Attributes:
        call: computes it once; what is timed.
        output: what it computes, (batch, out_channels, out_height, out_width).
        keep: what must live as long as the model and is not referred to elsewhere.
    """

    call: Callable[[], Any]
    output: Callable[[], np.ndarray]
    keep: Any = None
