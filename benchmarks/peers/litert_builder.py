"""A LiteRT model under construction, and its flatbuffer."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class Builder:
    """Tensors are numbers; shapes are LiteRT's, (batch, height, width, channels)."""

    def __init__(self) -> None:
        # Buffer 0 is empty by definition: tensors that are computed share it.
        self.buffers = [schema.BufferT()]
        self.subgraph = schema.SubGraphT()
        self.subgraph.tensors, self.subgraph.operators = [], []
        self.codes: list[schema.OperatorCodeT] = []

    def tensor(self, shape: tuple[int, ...], constant: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self.subgraph.tensors)}", list(shape)
        integer = constant is not None and constant.dtype == np.int32
        tensor.type = schema.TensorType.INT32 if integer else schema.TensorType.FLOAT32
        if constant is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(constant.tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        return self.tensor(values.shape, values)

    def operator(
        self,
        name: str,
        inputs: list[int],
        shape: tuple[int, ...],
        options: Any = None,
        version: int = 1,
    ) -> int:
        """The tensor that an operator computes.

        Args:
            name: of `schema.BuiltinOperator`.
            options: such as `schema.Conv2DOptionsT()`, as far as the operator has any.
            version: of the operator; the interpreter refuses options that a version does not have.
        """
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        # The field of old readers has 8 bits; 127 sends them to the other one.
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        operator, output = schema.OperatorT(), self.tensor(shape)
        operator.opcodeIndex = len(self.codes)
        operator.inputs, operator.outputs = inputs, [output]
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.codes.append(code)
        self.subgraph.operators.append(operator)
        return output

    def serialize(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.subgraph.inputs, self.subgraph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs = 3, [self.subgraph]
        model.buffers, model.operatorCodes = self.buffers, self.codes
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
