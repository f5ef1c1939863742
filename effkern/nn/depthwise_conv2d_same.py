"""DepthwiseConv2d for layers that pad by themselves, like TensorFlow's "SAME".

Such layers zero-pad inside their own forward, on one side more than on the other. Here the padding
is part of the operator: no padded copy of the input exists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from effkern.ops.depthwise_conv2d import Params

from .depthwise_conv2d import DepthwiseConv2d

# Lets torch.fx.symbolic_trace record it as one node: it computes with the input's sizes.
torch.fx.wrap("pad_or_fold")


def _with_padding(params: Params, top: int, bottom: int, left: int, right: int) -> Params:
    sh, sw, pad_top, pad_bottom, pad_left, pad_right, dh, dw, activation = params
    padding = (pad_top + top, pad_bottom + bottom, pad_left + left, pad_right + right)
    return (sh, sw, *padding, dh, dw, activation)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) for an output of ceil(size / stride) pixels; an odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def pad_or_fold(input: Tensor, weight: Tensor, params: Params) -> tuple[Tensor, Params]:
    """(input, params) with TensorFlow's "SAME" padding for this input's size."""
    height, width = input.shape[-2:]
    kernel_h, kernel_w = weight.shape[-2:]
    stride_h, stride_w, _, _, _, _, dilation_h, dilation_w, _ = params
    top, bottom = same_padding(height, kernel_h, stride_h, dilation_h)
    left, right = same_padding(width, kernel_w, stride_w, dilation_w)
    if is_compiling() or torch.jit.is_tracing():
        # Folded, it would tie the graph to this height and width.
        return F.pad(input, (left, right, top, bottom)), params
    return input, _with_padding(params, top, bottom, left, right)


class DepthwiseConv2dStaticSame(DepthwiseConv2d):
    """In place of Conv2dStaticSamePadding: the padding is that of the submodule static_padding."""

    def _prepare(self, input: Tensor, weight: Tensor) -> tuple[Tensor, Params]:
        # The source ignores padding_mode.
        params = self._params(weight, self.padding)
        padding = getattr(self.static_padding, "padding", None)
        if padding is None:
            return input, params
        left, right, top, bottom = padding
        return input, _with_padding(params, top, bottom, left, right)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """In place of Conv2dSame and Conv2dDynamicSamePadding: the padding follows the input's size."""

    def _prepare(self, input: Tensor, weight: Tensor) -> tuple[Tensor, Params]:
        # The sources ignore padding and padding_mode.
        return pad_or_fold(input, weight, self._params(weight, (0, 0)))
