"""Problems as calls without arguments, which do the whole work and nothing else.

Forward passes go through the functions that users call; gradients through the operators below
autograd, which do the same work on both sides.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import effkern
from effkern import _library, registry

from .blocks import Call
from .problem import Problem, Tensors


def _output_mask(problem: Problem) -> list[bool]:
    """Which of the gradients of input, weight and bias are computed."""
    grad_input = problem.pass_ == "dgrad"
    return [grad_input, not grad_input, not grad_input and problem.layer.bias]


def _pairs(problem: Problem) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    layer = problem.layer
    return (
        (layer.stride_h, layer.stride_w),
        (layer.pad_top, layer.pad_left),
        (layer.dilation_h, layer.dilation_w),
    )


def torch_call(problem: Problem, tensors: Tensors) -> partial[Any]:
    """F.conv2d, or aten::convolution_backward."""
    stride, padding, dilation = _pairs(problem)
    groups = problem.layer.channels
    if problem.pass_ == "fwd":
        x, w, b = tensors.input, tensors.weight, tensors.bias
        return partial(F.conv2d, x, w, b, stride, padding, dilation, groups)
    bias_sizes = [problem.layer.out_channels] if problem.layer.bias else None
    return partial(
        torch.ops.aten.convolution_backward.default,
        tensors.grad_output, tensors.input, tensors.weight, bias_sizes,
        stride, padding, dilation, False, [0, 0], groups, _output_mask(problem),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _compiled(problem: Problem, function: Call) -> Call:
    # What was compiled for other problems counts against Dynamo's limit of recompilations.
    torch._dynamo.reset()
    return torch.compile(lambda *operands: function(*operands), dynamic=False, fullgraph=True)


def compiled_call(problem: Problem, tensors: Tensors) -> Call:
    """torch.compile of `torch_call`; it compiles here, not when the result is called."""
    eager = torch_call(problem, tensors)
    call = partial(_compiled(problem, eager.func), *eager.args)
    call()
    return call


def effkern_call(problem: Problem, tensors: Tensors) -> Call:
    """effkern.functional's function, or the backward operator, with the backend in force now."""
    stride, padding, dilation = _pairs(problem)
    if problem.pass_ == "fwd":
        x, w, b = tensors.input, tensors.weight, tensors.bias
        return partial(effkern.functional.depthwise_conv2d, x, w, b, stride, padding, dilation)
    if not _library.available():
        # There is no operator to call: what users then run is torch.
        return torch_call(problem, tensors)
    from effkern.ops.depthwise_conv2d import eager

    top, left = padding
    backend = registry.BACKENDS[registry.current()]
    return partial(
        eager.backward,
        tensors.grad_output, tensors.input, tensors.weight,
        (*stride, top, top, left, left, *dilation), tuple(_output_mask(problem)), backend,
    )  # fmt: skip


def result(problem: Problem, returned: Any) -> Tensor:
    """The output, or the gradient that the pass is named after, in what a call returned."""
    index = {"dgrad": 0, "wgrad": 1}
    return returned if problem.pass_ == "fwd" else returned[index[problem.pass_]]
