"""What the nodes of an exported block are as steps of a graph, one function for each operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from .graph import AveragePool, Binary, Conv, LayerNorm, Mean

if TYPE_CHECKING:
    from .onnx_reader import Reader, Value

_NO_PADS = (0, 0, 0, 0)


def _wanted(node: onnx.NodeProto, what: str, wanted: Any, got: Any) -> None:
    if wanted != got:
        raise ValueError(f"{node.op_type}: wanted {what} {wanted}, got {got}")


def _pads(reader: Reader, name: str) -> tuple[str, tuple[int, int, int, int]]:
    """The image that is padded with zeros to a value, and by how much."""
    inputs = reader.nodes.inputs(name, "Pad")
    if not inputs:
        return name, _NO_PADS
    node, pads = reader.nodes.producers[name], reader.constant(inputs[1]).tolist()
    value = reader.constant(inputs[2]).item() if len(inputs) > 2 and inputs[2] else 0
    _wanted(node, "batch and channels padded by", [0] * 4, pads[0:2] + pads[4:6])
    _wanted(node, "a padding of", 0, value)
    return inputs[0], (*pads[2:4], *pads[6:8])


def conv(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    name, pads = _pads(reader, node.input[0])
    x = reader.value(name, node, last=False)
    weight, *bias = (reader.constant(other) for other in node.input[1:])
    _wanted(node, "auto_pad", b"NOTSET", attributes.get("auto_pad", b"NOTSET"))
    _wanted(node, "dimensions of an image", 2, weight.ndim - 2)
    own = attributes.get("pads", _NO_PADS)
    step = Conv(
        (x,), node.output[0], weight, bias[0] if bias else None, attributes.get("group", 1),
        tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("dilations", (1, 1))),
        tuple(p + q for p, q in zip(pads, own, strict=True)),
    )  # fmt: skip
    return reader.add(step), False


def matmul(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    """A linear layer over the channels, which is a convolution of 1x1."""
    x = reader.value(node.input[0], node, last=True)
    weight = reader.constant(node.input[1])
    _wanted(node, "dimensions of the second operand", 2, weight.ndim)
    weight = np.ascontiguousarray(weight.T)[:, :, np.newaxis, np.newaxis]
    return reader.add(Conv((x,), node.output[0], weight, None, 1, (1, 1), (1, 1), _NO_PADS)), True


def layer_norm(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    x = reader.value(node.input[0], node, last=True)
    _wanted(node, "axis", 3, attributes.get("axis", -1) % 4)
    weight, *bias = (reader.constant(name) for name in node.input[1:])
    shift = bias[0] if bias else np.zeros_like(weight)
    epsilon = attributes.get("epsilon", 1e-5)
    return reader.add(LayerNorm((x,), node.output[0], weight, shift, epsilon)), True


def batch_norm(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    weight, bias, mean, variance = (reader.constant(k).astype(np.float64) for k in node.input[1:])
    scale = weight / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    reader.value(node.input[0], node, last=False)
    return reader.scaled(node, node.input[0], scale, bias - mean * scale)


def mean(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    x = reader.value(node.input[0], node, last=False)
    if node.op_type == "ReduceMean":
        _wanted(node, "axes", [2, 3], sorted(axis % 4 for axis in attributes.get("axes", ())))
        _wanted(node, "keepdims", 1, attributes.get("keepdims", 1))
    return reader.add(Mean((x,), node.output[0])), False


def average_pool(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    x = reader.value(node.input[0], node, last=False)
    _wanted(node, "pads", _NO_PADS, tuple(attributes.get("pads", _NO_PADS)))
    _wanted(node, "auto_pad", b"NOTSET", attributes.get("auto_pad", b"NOTSET"))
    _wanted(node, "ceil_mode", 0, attributes.get("ceil_mode", 0))
    kernel = tuple(attributes["kernel_shape"])
    strides = tuple(attributes.get("strides", (1, 1)))
    return reader.add(AveragePool((x,), node.output[0], kernel, strides)), False


def transpose(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    """From NCHW to NHWC or back: the same value."""
    to_last = attributes.get("perm") == [0, 2, 3, 1]
    if not to_last:
        _wanted(node, "perm", [0, 3, 1, 2], attributes.get("perm"))
    return reader.value(node.input[0], node, last=not to_last), to_last


def binary(reader: Reader, node: onnx.NodeProto, attributes: dict[str, Any]) -> Value:
    """Of two images, or of one and its gate; what is constant is a factor or an offset."""
    for name, other in (node.input, reversed(node.input)):
        if other in reader.nodes.constants:
            constant = reader.per_channel(node, name, other)
            if node.op_type == "Mul":
                return reader.scaled(node, name, constant, np.zeros_like(constant))
            return reader.scaled(node, name, np.ones_like(constant), constant)
    last = reader.translated(node.input[0])[1]
    names = [reader.value(name, node, last) for name in node.input]
    # The gate comes last.
    names.sort(key=lambda name: reader.shapes[name][2:] == (1, 1))
    full, part = (reader.shapes[name] for name in names)
    if part not in (full, (*full[:2], 1, 1)):
        raise ValueError(f"{node.op_type}: wanted images of one size or a gate, got {full}, {part}")
    return reader.add(Binary(tuple(names), node.output[0], node.op_type.lower())), last


READERS: dict[str, Callable[[Reader, onnx.NodeProto, dict[str, Any]], Value]] = {
    "Conv": conv,
    "MatMul": matmul,
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm,
    "ReduceMean": mean,
    "GlobalAveragePool": mean,
    "AveragePool": average_pool,
    "Transpose": transpose,
    "Add": binary,
    "Mul": binary,
}
