"""An exported block as a graph, for the runtimes that do not read ONNX: what converters do.

Constants are folded, activations that are spelt out are recognized, transpositions are taken back,
and factors and offsets per channel go into the convolution before them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from . import graph
from .graph import Activation, Conv, Graph, Scale, Step
from .model import Exported, Operands
from .onnx_nodes import READERS
from .onnx_patterns import Nodes, gelu_of, silu_of

# The name of a value, and whether ONNX has its channels as the last axis here.
Value = tuple[str, bool]

_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "HardSwish": "hardswish"}


def _evaluated(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a node computes of constants."""
    inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    alone = helper.make_model(
        helper.make_graph([node], "constant", inputs, outputs),
        opset_imports=model.opset_import, ir_version=model.ir_version,
    )  # fmt: skip
    found = ReferenceEvaluator(alone).run(None, {i.name: constants[i.name] for i in inputs})
    return dict(zip(node.output, map(np.asarray, found), strict=True))


def _folded(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes that depend on the input, and the values of everything else."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if all(name in constants for name in node.input if name):
            constants |= _evaluated(model, node, constants)
        else:
            nodes.append(node)
    return nodes, constants


class Reader:
    """Translates values from the output backwards, each once."""

    def __init__(self, exported: Exported) -> None:
        model = onnx.load_from_string(exported.model)
        nodes, constants = _folded(model)
        self.nodes = Nodes({node.output[0]: node for node in nodes}, constants)
        self.output = model.graph.output[0].name
        self.users = Counter([self.output, *(name for node in nodes for name in node.input)])
        self.shapes: dict[str, tuple[int, ...]] = {"x": exported.input.shape}
        self.steps: dict[str, Step] = {}
        self.values: dict[str, Value] = {"x": ("x", False)}

    def read(self) -> Graph:
        output, last = self.translated(self.output)
        if last:
            raise ValueError("ONNX: wanted an output in NCHW, got one in NHWC")
        return Graph(list(self.steps.values()), self.shapes, output)

    def add(self, step: Step) -> str:
        self.steps[step.output] = step
        self.shapes[step.output] = graph.shape(step, self.shapes[step.inputs[0]])
        return step.output

    def constant(self, name: str) -> np.ndarray:
        if name not in self.nodes.constants:
            raise ValueError(f"ONNX: wanted a constant, got {name!r}")
        return self.nodes.constants[name]

    def per_channel(self, node: onnx.NodeProto, name: str, constant: str) -> np.ndarray:
        """A constant operand as it meets each channel of a value."""
        value, last = self.translated(name)
        wanted, given = [1, 1, 1, 1], self.constant(constant)
        channels = wanted[3 if last else 1] = self.shapes[value][1]
        shape = [1] * (4 - given.ndim) + list(given.shape)
        if shape not in ([1, 1, 1, 1], wanted):
            raise ValueError(f"{node.op_type}: wanted a constant of {wanted}, got {shape}")
        return np.broadcast_to(given.reshape(-1).astype(np.float64), channels)

    def value(self, name: str, node: onnx.NodeProto, last: bool) -> str:
        """A value that a node wants in NHWC, if `last`, or in NCHW."""
        value, is_last = self.translated(name)
        if is_last != last:
            layouts = ("NHWC", "NCHW") if last else ("NCHW", "NHWC")
            raise ValueError(f"{node.op_type}: wanted {layouts[0]}, got {layouts[1]}")
        return value

    def translated(self, name: str) -> Value:
        if name not in self.values:
            self.values[name] = self._translate(name)
        return self.values[name]

    def _translate(self, name: str) -> Value:
        node = self.nodes.producers.get(name)
        if node is None:
            raise ValueError(f"ONNX: wanted a value that depends on x, got {name!r}")
        spelt_out = {"silu": silu_of(self.nodes, name), "gelu": gelu_of(self.nodes, name)}
        found = {kind: argument for kind, argument in spelt_out.items() if argument is not None}
        if node.op_type in _ACTIVATIONS:
            found = {_ACTIVATIONS[node.op_type]: node.input[0]}
        for kind, argument in found.items():
            value, last = self.translated(argument)
            return self.add(Activation((value,), name, kind)), last
        if node.op_type not in READERS:
            raise ValueError(f"ONNX: {node.op_type} is not translated")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return READERS[node.op_type](self, node, attributes)

    def scaled(
        self, node: onnx.NodeProto, name: str, scale: np.ndarray, shift: np.ndarray
    ) -> Value:
        """A value times `scale` plus `shift`, in the convolution before if no one else reads it."""
        (value, last), output = self.translated(name), node.output[0]
        before = self.steps.get(value)
        if isinstance(before, Conv) and self._only_user(name, value):
            del self.steps[value]
            weight = before.weight * scale[:, np.newaxis, np.newaxis, np.newaxis]
            bias = shift if before.bias is None else before.bias * scale + shift
            weight, bias = weight.astype(np.float32), bias.astype(np.float32)
            return self.add(replace(before, output=output, weight=weight, bias=bias)), last
        step = Scale((value,), output, scale.astype(np.float32), shift.astype(np.float32))
        return self.add(step), last

    def _only_user(self, name: str, value: str) -> bool:
        """Whether a value is read here only, perhaps by way of transpositions."""
        while self.users[name] == 1 and name != value:
            name = self.nodes.producers[name].input[0]
        return self.users[name] == 1


def read(operands: Operands | Exported) -> Graph:
    """A layer or a block as a graph.

    Raises:
        ValueError: the block holds something that is not known here.
    """
    return Reader(operands).read() if isinstance(operands, Exported) else graph.of_layer(operands)
