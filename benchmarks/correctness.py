"""No time without a right answer: the check that runs beside every measurement."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from effkern.reference.depthwise_conv2d import depthwise_conv2d
from effkern.testing.tolerances import assert_within_bound

from .calls import Call, result, torch_call
from .problem import LAYOUTS, Problem, Tensors


@dataclass
class Reference:
    """A problem's exact result, its accumulation scale, and PyTorch's results by layout."""

    exact: Tensor
    scale: Tensor
    torch: dict[str, Tensor]


def _exact(problem: Problem, tensors: Tensors, magnitudes: bool) -> Tensor:
    def operand(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().double().contiguous()
        return tensor.abs() if magnitudes else tensor

    layer = problem.layer
    forward = problem.pass_ == "fwd"
    x = operand(tensors.input).requires_grad_(problem.pass_ == "dgrad")
    w = operand(tensors.weight).requires_grad_(problem.pass_ == "wgrad")
    b = operand(tensors.bias) if forward and tensors.bias is not None else None
    y = depthwise_conv2d(
        x, w, b,
        (layer.stride_h, layer.stride_w),
        (layer.pad_top, layer.pad_left),
        (layer.dilation_h, layer.dilation_w),
    )  # fmt: skip
    if forward:
        return y.detach()
    operand_of_interest = x if problem.pass_ == "dgrad" else w
    return torch.autograd.grad(y, operand_of_interest, operand(tensors.grad_output))[0]


def reference(problem: Problem, tensors: Tensors) -> Reference:
    """Float64 on the operands that are timed; the scale is the sum of the terms' magnitudes."""
    with torch.no_grad():
        theirs = {k: result(problem, torch_call(problem, tensors.to(k))()) for k in LAYOUTS}
    with torch.enable_grad():
        exact = _exact(problem, tensors, magnitudes=False)
        scale = _exact(problem, tensors, magnitudes=True)
    return Reference(exact, scale, theirs)


def failure(
    problem: Problem,
    expected: Reference,
    layout: str,
    call: Call,
    context: AbstractContextManager[None] | None = None,
) -> str | None:
    """None if the call's result is within the error bound of the tests, else what is wrong.

    The bound is twice the error that PyTorch makes on the same operands, in the same layout.
    """
    with torch.no_grad(), context or nullcontext():
        actual = result(problem, call())
    try:
        assert_within_bound(
            actual, expected.torch[layout], expected.exact, expected.scale, what=problem.pass_
        )
    except AssertionError as error:
        return str(error)
    return None
