"""ncnn: one image a call, blocks from its pool allocators, its packing and unpacking included."""

from __future__ import annotations

import ncnn
import numpy as np

from . import graph, ncnn_steps, onnx_reader
from .model import Exported, Model, Operands
from .ncnn_net import Blob, Net

# ncnn ends the process if an allocator goes before what it allocated: these stay to the end.
_BLOBS, _WORKSPACE = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()


def _net(operands: Operands | Exported) -> tuple[Net, str, str]:
    """The layers, and the names of the input and the output."""
    found = graph.fused(onnx_reader.read(operands), set(ncnn_steps.FUSED))
    net, users = Net(), found.users()
    x = net.input()
    blobs: dict[str, list[Blob]] = {"x": net.copies(x, users["x"])}
    for step in found.steps:
        blob = ncnn_steps.emit(step, net, [blobs[name].pop() for name in step.inputs])
        blobs[step.output] = net.copies(blob, users[step.output])
    (output,) = blobs[found.output]
    return net, x.name, output.name


def build(operands: Operands | Exported, threads: int) -> Model:
    """The layer in a net with `threads` threads, all of it in float32.

    Raises:
        ValueError: the input holds more than one image, or the block something unknown.
    """
    if len(operands.input) != 1:
        raise ValueError(f"ncnn: wanted one image, got {len(operands.input)}")
    built, x, y = _net(operands)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    _BLOBS.clear()
    net.opt.blob_allocator, net.opt.workspace_allocator = _BLOBS, _WORKSPACE
    stored = built.weights()
    if net.load_param_mem(built.text()) or net.load_model_mem(stored):
        raise RuntimeError("ncnn: the net was not loaded")
    # The clone has the alignment of ncnn's own images.
    image = ncnn.Mat(operands.input[0]).clone()

    def call() -> ncnn.Mat:
        extractor = net.create_extractor()
        extractor.input(x, image)
        return extractor.extract(y)[1]

    # The net points into the stored weights.
    return Model(call, lambda: np.array(call()).reshape(operands.output_shape), keep=stored)
