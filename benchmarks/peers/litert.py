"""LiteRT (TensorFlow Lite) with XNNPACK, in NHWC."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from .model import Model, Operands


class _Graph:
    """A model under construction."""

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

    def operator(self, code: int, inputs: list[int], output: int, **options: object) -> None:
        operator_code = schema.OperatorCodeT()
        operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
        # Version 2 of the depthwise convolution has dilation; of the others 1 does.
        operator_code.version = 2 if options else 1
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes)
        operator.inputs, operator.outputs = inputs, [output]
        if options:
            operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
            operator.builtinOptions = schema.DepthwiseConv2DOptionsT()
            vars(operator.builtinOptions).update(options)
        self.codes.append(operator_code)
        self.subgraph.operators.append(operator)

    def serialize(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.subgraph.inputs, self.subgraph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs = 3, [self.subgraph]
        model.buffers, model.operatorCodes = self.buffers, self.codes
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _is_same(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> bool:
    """Whether a padding is TensorFlow's "same", of which the odd pixel comes last."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return (before, after) == (total // 2, total - total // 2)


def _serialize(operands: Operands) -> bytes:
    layer, graph = operands.layer, _Graph()
    batch, channels, height, width = operands.input.shape
    x = image = graph.tensor((batch, height, width, channels))
    same = _is_same(
        height, layer.kernel_h, layer.stride_h, layer.dilation_h, layer.pad_top, layer.pad_bottom
    ) and _is_same(
        width, layer.kernel_w, layer.stride_w, layer.dilation_w, layer.pad_left, layer.pad_right
    )
    if not same:
        # XNNPACK makes one operator of this and the convolution.
        rows, columns = (layer.pad_top, layer.pad_bottom), (layer.pad_left, layer.pad_right)
        image = graph.tensor((batch, height + sum(rows), width + sum(columns), channels))
        pads = graph.constant(np.array([(0, 0), rows, columns, (0, 0)], np.int32))
        graph.operator(schema.BuiltinOperator.PAD, [x, pads], image)
    bias = np.zeros(layer.out_channels, np.float32) if operands.bias is None else operands.bias
    weight = np.ascontiguousarray(operands.weight.transpose(1, 2, 3, 0))
    _, channels, height, width = operands.output_shape
    y = graph.tensor((batch, height, width, channels))
    graph.operator(
        schema.BuiltinOperator.DEPTHWISE_CONV_2D,
        [image, graph.constant(weight), graph.constant(bias)],
        y,
        padding=schema.Padding.SAME if same else schema.Padding.VALID,
        strideH=layer.stride_h, strideW=layer.stride_w, depthMultiplier=layer.multiplier,
        dilationHFactor=layer.dilation_h, dilationWFactor=layer.dilation_w,
    )  # fmt: skip
    return graph.serialize([x], [y])


def build(operands: Operands, threads: int) -> Model:
    """The layer in an interpreter with `threads` threads and the XNNPACK delegate."""
    interpreter = Interpreter(model_content=_serialize(operands), num_threads=threads)
    interpreter.allocate_tensors()
    x, y = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.set_tensor(x, np.ascontiguousarray(operands.input.transpose(0, 2, 3, 1)))
    return Model(interpreter.invoke, lambda: interpreter.get_tensor(y).transpose(0, 3, 1, 2))
