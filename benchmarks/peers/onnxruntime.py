"""ONNX Runtime: input and output bound once, its own copies to and from NCHWc included."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnxruntime as ort

from . import onnx_model
from .model import Model, Operands


def build(operands: Operands, threads: int) -> Model:
    """The layer in a session with `threads` threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        onnx_model.serialize(operands), options, providers=["CPUExecutionProvider"]
    )
    output = ort.OrtValue.ortvalue_from_numpy(np.empty(operands.output_shape, np.float32))
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(operands.input))
    binding.bind_ortvalue_output("y", output)
    return Model(partial(session.run_with_iobinding, binding), output.numpy)
