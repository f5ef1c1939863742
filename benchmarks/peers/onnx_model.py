"""The layer as an ONNX model of one Conv node, for the runtimes that read it."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from .model import Exported, Operands

# Old enough for every runtime of the last years.
_IR_VERSION, _OPSET = 8, 17


def serialize(operands: Operands | Exported) -> bytes:
    """The model, its input "x" and its output "y" in NCHW, of fixed sizes."""
    if isinstance(operands, Exported):
        return operands.model
    layer = operands.layer
    constants = {"w": operands.weight} | ({} if operands.bias is None else {"b": operands.bias})
    node = helper.make_node(
        "Conv",
        ["x", *constants],
        ["y"],
        group=layer.channels,
        kernel_shape=[layer.kernel_h, layer.kernel_w],
        strides=[layer.stride_h, layer.stride_w],
        dilations=[layer.dilation_h, layer.dilation_w],
        pads=[layer.pad_top, layer.pad_left, layer.pad_bottom, layer.pad_right],
    )
    graph = helper.make_graph(
        [node],
        "depthwise",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, operands.input.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, operands.output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=opsets)
    return model.SerializeToString()
