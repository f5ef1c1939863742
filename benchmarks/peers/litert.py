"""LiteRT (TensorFlow Lite) with XNNPACK, in NHWC."""

from __future__ import annotations

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from . import graph, litert_steps, onnx_reader
from .litert_builder import Builder
from .model import Exported, Model, Operands


def _nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    batch, channels, height, width = shape
    return batch, height, width, channels


def _serialize(operands: Operands | Exported) -> bytes:
    """A layer or a block as a flatbuffer."""
    found = graph.fused(onnx_reader.read(operands), set(litert_steps.FUSED))
    shapes = {name: _nhwc(shape) for name, shape in found.shapes.items()}
    builder = Builder()
    tensors = {"x": builder.tensor(shapes["x"])}
    for step in found.steps:
        inputs = [tensors[name] for name in step.inputs]
        sizes = [shapes[name] for name in (*step.inputs, step.output)]
        tensors[step.output] = litert_steps.emit(step, builder, inputs, sizes)
    return builder.serialize([tensors["x"]], [tensors[found.output]])


def build(operands: Operands | Exported, threads: int) -> Model:
    """The layer in an interpreter with `threads` threads and the XNNPACK delegate."""
    interpreter = Interpreter(model_content=_serialize(operands), num_threads=threads)
    interpreter.allocate_tensors()
    x, y = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.set_tensor(x, np.ascontiguousarray(operands.input.transpose(0, 2, 3, 1)))
    return Model(interpreter.invoke, lambda: interpreter.get_tensor(y).transpose(0, 3, 1, 2))
