"""Which calls of depthwise_conv2d_fused the CUDA kernels with hooks take; others are composed."""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import Parameter

from ... import _library, registry
from .arguments import ACTIVATIONS, Params

_CUDA, _EMULATED = registry.BACKENDS["cuda"], registry.BACKENDS["cuda_emulated"]
_HALVES = (torch.float16, torch.bfloat16)
# Kernel size and stride.
_KERNELS = {(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)}
# Those of 16-bit types that take tensor cores.
_PRODUCTS = {(5, 1), (7, 1)}
_ACTIVATIONS = frozenset(ACTIVATIONS[name] for name in (None, "relu", "relu6", "silu", "hardswish"))
# Counts of the kernels fit an int.
_MOST = 2**31 - 1


def can_run(tensors: list[Tensor], weight: Tensor, params: Params, input_activation: int) -> bool:
    """Whether a kernel with hooks serves a call in eager mode; `tensors[0]` is the input."""
    backend, input = registry.selected, tensors[0]
    if backend not in (_CUDA, _EMULATED) or input.dim() not in (3, 4) or weight.dim() != 4:
        return False
    there = _library.has_cuda_kernels() if backend == _CUDA else _library.emulation_available()
    device = "cuda" if backend == _CUDA else "cpu"
    if (
        not there
        or any(type(t) not in (Tensor, Parameter) or t.device.type != device for t in tensors)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    ):
        return False
    if backend == _CUDA and _takes_products(input, weight, params):
        # Tensor-core kernels, whose instructions older devices do not have.
        if torch.cuda.get_device_capability(input.device) < (8, 0):
            return False
    known = input_activation in _ACTIVATIONS and params[8] in _ACTIVATIONS
    return known and _fits(input, weight, params)


def _fits_int(batch: int, channels: int, height: int, width: int, pad: int) -> bool:
    """As in csrc/depthwise_conv2d/depthwise_conv2d_cuda_plan.cpp, for the larger of both images."""
    half, items = _MOST // 2, batch * (width // 2 + 1)
    return (
        max(height, width, pad) < _MOST // 8
        and max(batch * height, batch * channels, items * (height // 2 + 1)) <= half
        and batch * (height // 4 + 1) * (width // 4 + 1) * channels <= _MOST
        and items * (height // 4 + 128) <= _MOST
    )


def _takes_products(input: Tensor, weight: Tensor, params: Params) -> bool:
    return input.dtype in _HALVES and (weight.shape[3], params[1]) in _PRODUCTS


def _fits_products(input: Tensor, out_height: int, out_width: int) -> bool:
    """As the launchers of the tensor-core kernels, for dense images."""
    batch, channels, height, width = input.shape
    rows, columns = max(height, out_height), max(width, out_width)
    return (rows + 128) * columns <= _MOST and (batch == 1 or channels * rows * columns <= _MOST)


def _fits(input: Tensor, weight: Tensor, params: Params) -> bool:
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w = params[:8]
    if input.dim() == 3:
        input = input.unsqueeze(0)
    batch, channels, height, width = input.shape
    kernel = weight.shape[3]
    rows, columns = height + top + bottom, width + left + right
    if (
        weight.shape != (channels, 1, kernel, kernel)
        or (kernel, stride_w) not in _KERNELS
        or input.dtype not in (torch.float32, *_HALVES)
        or weight.dtype != input.dtype
        or (stride_h, dilation_h, dilation_w) != (stride_w, 1, 1)
        or input.numel() == 0
        or not _fits_int(batch, channels, rows, columns, max(top, left))
    ):
        return False
    # Of an image that is both, kernels and torch need not agree on which it is.
    last = input.is_contiguous(memory_format=torch.channels_last)
    if last == input.is_contiguous():
        return False
    output = (columns - kernel) // stride_w + 1
    products = _takes_products(input, weight, params)
    if products and not _fits_products(input, rows - kernel + 1, output):
        return False
    if last:
        if products and max(width, output) * channels > _MOST // 1024:
            return False
        vector = 8 if input.dtype in _HALVES and (products or kernel == 3) else 4
        return channels % vector == 0 and input.data_ptr() % 16 == 0
    if products:
        # Else the output is channels_last.
        return weight.stride(1) != 1
    reach = (output - 1) * stride_w + kernel - left - width
    return (
        # Else the output is channels_last.
        weight.stride(1) != 1
        and left < kernel
        and reach < kernel
        and output >= (5 if (kernel, stride_w) == (3, 1) else 7)
    )
