"""A layer or a block as a few kinds of steps, for the runtimes that do not read ONNX.

Shapes and weights are PyTorch's: (batch, channels, height, width). The input is named "x".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from .model import Operands


@dataclass(frozen=True)
class Step:
    """What computes one value, `output`, of others."""

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Conv(Step):
    """A convolution.

    Attributes:
        weight: (out_channels, in_channels / groups, kernel_h, kernel_w).
        bias: (out_channels,) or None.
        pads: above, left, below, right.
        activation: that ends it, one of `Activation`'s.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    groups: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    activation: str | None = None


@dataclass(frozen=True)
class Activation(Step):
    """`kind`: relu, sigmoid, silu, hardswish or gelu (the exact one, with erf)."""

    kind: str


@dataclass(frozen=True)
class Mean(Step):
    """Over the image, of which one pixel is left."""


@dataclass(frozen=True)
class AveragePool(Step):
    """Without padding."""

    kernel: tuple[int, int]
    strides: tuple[int, int]


@dataclass(frozen=True)
class Scale(Step):
    """Per channel: x * scale + shift."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class LayerNorm(Step):
    """Over the channels of each pixel."""

    weight: np.ndarray
    bias: np.ndarray
    epsilon: float


@dataclass(frozen=True)
class Binary(Step):
    """`kind`: add or mul. The second operand may be an image of one pixel."""

    kind: str


@dataclass(frozen=True)
class Graph:
    """Steps in the order in which they can be computed.

    Attributes:
        shapes: of every value.
        output: the name of the last value.
    """

    steps: list[Step]
    shapes: dict[str, tuple[int, ...]]
    output: str

    def users(self) -> Counter[str]:
        """How often each value is read; the output once more."""
        return Counter([self.output, *(name for step in self.steps for name in step.inputs)])


def shape(step: Step, input: tuple[int, ...]) -> tuple[int, ...]:
    """Of a step's output, given that of its first input."""
    batch, channels, *image = input
    if isinstance(step, Mean):
        return batch, channels, 1, 1
    if isinstance(step, Conv):
        kernel = step.weight.shape[2:]
        (top, left, *after), channels = step.pads, len(step.weight)
        image = [
            (size + before + behind - d * (k - 1) - 1) // s + 1
            for size, before, behind, d, k, s in zip(
                image, (top, left), after, step.dilations, kernel, step.strides, strict=True
            )
        ]
    elif isinstance(step, AveragePool):
        image = [
            (size - k) // s + 1 for size, k, s in zip(image, step.kernel, step.strides, strict=True)
        ]
    return batch, channels, *image


def fused(graph: Graph, kinds: set[str]) -> Graph:
    """With the activations of these kinds in the convolutions that nobody else reads."""
    users, steps = graph.users(), dict[str, Step]()
    for step in graph.steps:
        before = steps.get(step.inputs[0])
        if (
            isinstance(step, Activation)
            and step.kind in kinds
            and isinstance(before, Conv)
            and users[before.output] == 1
        ):
            del steps[before.output]
            step = replace(before, output=step.output, activation=step.kind)
        steps[step.output] = step
    return replace(graph, steps=list(steps.values()))


def of_layer(operands: Operands) -> Graph:
    """A depthwise layer: one step."""
    layer = operands.layer
    step = Conv(
        ("x",), "y", operands.weight, operands.bias, layer.channels,
        (layer.stride_h, layer.stride_w), (layer.dilation_h, layer.dilation_w),
        (layer.pad_top, layer.pad_left, layer.pad_bottom, layer.pad_right),
    )  # fmt: skip
    return Graph([step], {"x": operands.input.shape, "y": operands.output_shape}, "y")
