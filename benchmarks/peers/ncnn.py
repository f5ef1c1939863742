"""ncnn: one image a call, blocks from its pool allocators, its packing and unpacking included."""

from __future__ import annotations

import struct

import ncnn
import numpy as np

from .model import Model, Operands

# ncnn ends the process if an allocator goes before what it allocated: these stay to the end.
_BLOBS, _WORKSPACE = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()


def _parameters(operands: Operands) -> str:
    layer, weights = operands.layer, operands.weight.size
    fields = {
        0: layer.out_channels, 1: layer.kernel_w, 11: layer.kernel_h,
        2: layer.dilation_w, 12: layer.dilation_h, 3: layer.stride_w, 13: layer.stride_h,
        4: layer.pad_left, 15: layer.pad_right, 14: layer.pad_top, 16: layer.pad_bottom,
        5: int(operands.bias is not None), 6: weights, 7: layer.channels,
    }  # fmt: skip
    values = " ".join(f"{key}={value}" for key, value in fields.items())
    # The magic number, then the numbers of layers and of blobs.
    return f"7767517\n2 2\nInput x 0 1 x\nConvolutionDepthWise conv 1 1 x y {values}\n"


def build(operands: Operands, threads: int) -> Model:
    """The layer in a net with `threads` threads, all of it in float32.

    Raises:
        ValueError: the input holds more than one image.
    """
    if len(operands.input) != 1:
        raise ValueError(f"ncnn: wanted one image, got {len(operands.input)}")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    _BLOBS.clear()
    net.opt.blob_allocator, net.opt.workspace_allocator = _BLOBS, _WORKSPACE
    # A tag of 0 before the weights says float32; the bias has none.
    stored = struct.pack("<i", 0) + operands.weight.tobytes()
    stored += b"" if operands.bias is None else operands.bias.tobytes()
    if net.load_param_mem(_parameters(operands)) or net.load_model_mem(stored):
        raise RuntimeError("ncnn: the net was not loaded")
    # The clone has the alignment of ncnn's own images.
    image = ncnn.Mat(operands.input[0]).clone()

    def call() -> ncnn.Mat:
        extractor = net.create_extractor()
        extractor.input("x", image)
        return extractor.extract("y")[1]

    # The net points into the stored weights.
    return Model(call, lambda: np.array(call())[np.newaxis], keep=stored)
