"""The steps of a graph as ncnn's layers, in its own layout, (channels, height, width)."""

from __future__ import annotations

from functools import singledispatch

from . import graph
from .ncnn_net import Blob, Net

# What a convolution may end with, and its number there.
FUSED = {"relu": 1, "sigmoid": 4}
_ACTIVATIONS: dict[str, tuple[str, dict[int, int | float]]] = {
    "relu": ("ReLU", {}),
    "sigmoid": ("Sigmoid", {}),
    "silu": ("Swish", {}),
    "hardswish": ("HardSwish", {0: 1 / 6, 1: 0.5}),
    # 0: with erf, not with tanh.
    "gelu": ("GELU", {0: 0}),
}
_BINARY = {"add": 0, "mul": 2}
# Orders of axes, innermost first: from whc to cwh and back.
_CHANNELS_LAST, _CHANNELS_FIRST = 3, 4


@singledispatch
def emit(step: graph.Step, net: Net, inputs: list[Blob]) -> Blob:
    """What the layers of a step compute."""
    raise ValueError(f"ncnn: {type(step).__name__} is not translated")


@emit.register
def _(step: graph.Conv, net: Net, inputs: list[Blob]) -> Blob:
    (outputs, _, kernel_h, kernel_w), bias = step.weight.shape, int(step.bias is not None)
    activation = {} if step.activation is None else {9: FUSED[step.activation]}
    if inputs[0].vector:
        if (kernel_h, kernel_w, step.groups, any(step.pads)) != (1, 1, 1, False):
            raise ValueError("ncnn: wanted a dense convolution of 1x1 on one pixel")
        fields = {0: outputs, 1: bias, 2: step.weight.size} | activation
        blob = net.layer("InnerProduct", inputs, fields)
    else:
        top, left, bottom, right = step.pads
        fields = {
            0: outputs, 1: kernel_w, 11: kernel_h,
            2: step.dilations[1], 12: step.dilations[0], 3: step.strides[1], 13: step.strides[0],
            4: left, 15: right, 14: top, 16: bottom, 5: bias, 6: step.weight.size,
        } | activation  # fmt: skip
        if step.groups == 1:
            blob = net.layer("Convolution", inputs, fields)
        else:
            blob = net.layer("ConvolutionDepthWise", inputs, fields | {7: step.groups})
    net.store(step.weight, step.bias, tagged=True)
    return blob


@emit.register
def _(step: graph.Activation, net: Net, inputs: list[Blob]) -> Blob:
    kind, parameters = _ACTIVATIONS[step.kind]
    return net.layer(kind, inputs, parameters)


@emit.register
def _(step: graph.Mean, net: Net, inputs: list[Blob]) -> Blob:
    return net.layer("Pooling", inputs, {0: 1, 4: 1}, vector=True)


@emit.register
def _(step: graph.AveragePool, net: Net, inputs: list[Blob]) -> Blob:
    (kernel_h, kernel_w), (stride_h, stride_w) = step.kernel, step.strides
    # 5=1: no padding, and no pixel that a stride does not reach.
    parameters = {0: 1, 1: kernel_w, 11: kernel_h, 2: stride_w, 12: stride_h, 5: 1}
    return net.layer("Pooling", inputs, parameters)


@emit.register
def _(step: graph.Binary, net: Net, inputs: list[Blob]) -> Blob:
    return net.layer("BinaryOp", inputs, {0: _BINARY[step.kind]})


@emit.register
def _(step: graph.Scale, net: Net, inputs: list[Blob]) -> Blob:
    blob = net.layer("Scale", inputs, {0: step.scale.size, 1: 1})
    net.store(step.scale, step.shift, tagged=False)
    return blob


@emit.register
def _(step: graph.LayerNorm, net: Net, inputs: list[Blob]) -> Blob:
    """Over the innermost axis, which the channels are made for it."""
    if inputs[0].vector:
        raise ValueError("ncnn: wanted an image to normalize, got one pixel")
    last = net.layer("Permute", inputs, {0: _CHANNELS_LAST})
    normed = net.layer("LayerNorm", [last], {0: step.weight.size, 1: float(step.epsilon), 2: 1})
    net.store(step.weight, step.bias, tagged=False)
    return net.layer("Permute", [normed], {0: _CHANNELS_FIRST})
