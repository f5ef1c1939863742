"""The steps of a graph as LiteRT's operators, in NHWC."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from . import graph
from .litert_builder import Builder

Shape = tuple[int, ...]
# What a convolution may end with; XNNPACK clamps where it stores.
FUSED = {"relu": schema.ActivationFunctionType.RELU}
_ACTIVATIONS = {"relu": "RELU", "sigmoid": "LOGISTIC", "hardswish": "HARD_SWISH"}


@singledispatch
def emit(step: graph.Step, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    """The tensor of a step.

    Args:
        inputs: their tensors.
        shapes: of the inputs, and last of the output.
    """
    raise ValueError(f"LiteRT: {type(step).__name__} is not translated")


def _is_same(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> bool:
    """Whether a padding is TensorFlow's "same", of which the odd pixel comes last."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return (before, after) == (total // 2, total - total // 2)


@emit.register
def _(step: graph.Conv, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    (batch, height, width, channels), (image,) = shapes[0], inputs
    if step.groups not in (1, channels):
        raise ValueError(f"LiteRT: wanted 1 group or {channels}, got {step.groups}")
    (top, left, bottom, right), (kernel_h, kernel_w) = step.pads, step.weight.shape[2:]
    same = _is_same(height, kernel_h, step.strides[0], step.dilations[0], top, bottom) and _is_same(
        width, kernel_w, step.strides[1], step.dilations[1], left, right
    )
    if not same:
        # XNNPACK makes one operator of this and the convolution.
        pads = builder.constant(np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32))
        padded = (batch, height + top + bottom, width + left + right, channels)
        image = builder.operator("PAD", [image, pads], padded)
    depthwise = step.groups > 1
    options: Any = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = step.strides
    options.dilationHFactor, options.dilationWFactor = step.dilations
    if step.activation is not None:
        options.fusedActivationFunction = FUSED[step.activation]
    if depthwise:
        options.depthMultiplier = len(step.weight) // channels
    bias = np.zeros(len(step.weight), np.float32) if step.bias is None else step.bias
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    weight = builder.constant(np.ascontiguousarray(step.weight.transpose(order)))
    return builder.operator(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [image, weight, builder.constant(bias)], shapes[-1], options,
        # Version 2 of the depthwise convolution has dilation; of the other 1 does.
        version=2 if depthwise else 1,
    )  # fmt: skip


@emit.register
def _(step: graph.Activation, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    if step.kind == "gelu":
        return builder.operator("GELU", inputs, shapes[-1], schema.GeluOptionsT())
    if step.kind == "silu":
        gate = builder.operator("LOGISTIC", inputs, shapes[-1])
        return _binary(builder, "MUL", [*inputs, gate], shapes[-1])
    return builder.operator(_ACTIVATIONS[step.kind], inputs, shapes[-1])


def _mean(builder: Builder, image: int, axes: list[int], shape: Shape) -> int:
    options = schema.ReducerOptionsT()
    options.keepDims = True
    return builder.operator(
        "MEAN", [image, builder.constant(np.array(axes, np.int32))], shape, options
    )


def _binary(builder: Builder, name: str, inputs: list[int], shape: Shape) -> int:
    options = {"ADD": schema.AddOptionsT, "MUL": schema.MulOptionsT, "SUB": schema.SubOptionsT}
    return builder.operator(name, inputs, shape, options[name]())


@emit.register
def _(step: graph.Mean, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    return _mean(builder, *inputs, [1, 2], shapes[-1])


@emit.register
def _(step: graph.AveragePool, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = step.kernel
    options.strideH, options.strideW = step.strides
    return builder.operator("AVERAGE_POOL_2D", inputs, shapes[-1], options)


@emit.register
def _(step: graph.Binary, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    return _binary(builder, step.kind.upper(), inputs, shapes[-1])


def _scaled(
    builder: Builder, image: int, scale: np.ndarray, shift: np.ndarray, shape: Shape
) -> int:
    image = _binary(builder, "MUL", [image, builder.constant(scale)], shape)
    return _binary(builder, "ADD", [image, builder.constant(shift)], shape)


@emit.register
def _(step: graph.Scale, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    return _scaled(builder, *inputs, step.scale, step.shift, shapes[-1])


@emit.register
def _(step: graph.LayerNorm, builder: Builder, inputs: list[int], shapes: list[Shape]) -> int:
    """There is no such operator: what converters make of it."""
    (image,), shape, pixels = inputs, shapes[-1], (*shapes[-1][:3], 1)
    mean = _mean(builder, image, [3], pixels)
    centred = _binary(builder, "SUB", [image, mean], shape)
    square = _binary(builder, "MUL", [centred, centred], shape)
    epsilon = builder.constant(np.array([step.epsilon], np.float32))
    variance = _mean(builder, square, [3], pixels)
    deviation = _binary(builder, "ADD", [variance, epsilon], pixels)
    inverse = builder.operator("RSQRT", [deviation], pixels)
    normed = _binary(builder, "MUL", [centred, inverse], shape)
    return _scaled(builder, normed, step.weight, step.bias, shape)
