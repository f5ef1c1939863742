"""OpenVINO: tensors of its own, filled once; its reorders to and from its layout included."""

from __future__ import annotations

from functools import partial

import openvino as ov

from . import onnx_model
from .model import Model, Operands


def build(operands: Operands, threads: int) -> Model:
    """The layer compiled for the least latency with `threads` threads."""
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(onnx_model.serialize(operands))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.get_input_tensor().data[:] = operands.input
    # Without a copy of the output.
    call = partial(request.infer, share_outputs=True)
    return Model(call, lambda: request.get_output_tensor().data)
