"""Fakes, autograd and autocast rules of torch.ops.effkern.depthwise_conv2d_fused.

With x' = f(scale * x + shift), the output y = g(conv(x', weight) + bias), its sums s and those of
its squares q, the gradient of the output is dy + ds + 2 y dq; from there on it is the gradient of
depthwise_conv2d at x', which is computed again, and that of x'.
"""

from __future__ import annotations

from typing import Any

import torch

from ...registry import BACKENDS
from . import fallback, registration
from .arguments import ACTIVATIONS
from .operators import BY_BACKEND

_NAME = "depthwise_conv2d_fused"
_OPERATORS = torch.ops.effkern
PUBLIC = _OPERATORS.depthwise_conv2d_fused.default
# Without autograd of its own: cheaper inside an autograd.Function.
LEAN = _OPERATORS._depthwise_conv2d_fused.default

_FROM_OUTPUT = (ACTIVATIONS["relu"], ACTIVATIONS["relu6"])
# Tensors of sums for each value of the argument `sums`.
_MOMENTS = (0, 2, 1)

# Kept alive: the registrations go when the object does.
_libraries: list[torch.library.Library] = []


def lean(backend: int) -> Any:
    """The operator without autograd that carries a backend, by its integer."""
    if backend == BACKENDS["cuda_emulated"]:
        return torch.ops.effkern_emulated._depthwise_conv2d_fused.default
    return LEAN


class Fused(torch.autograd.Function):
    """The operator in eager mode."""

    @staticmethod
    def forward(ctx: Any, input, weight, bias, scale, shift, *integers):
        results = lean(integers[-1])(input, weight, bias, scale, shift, *integers)
        setup(ctx, (input, weight, bias, scale, shift, *integers), results)
        return tuple(results[: 1 + _MOMENTS[integers[10]]])

    @staticmethod
    def backward(ctx: Any, *grads):
        return backward(ctx, *(*grads, None, None)[:3])


def setup(ctx: Any, inputs, output) -> None:
    """What the backward keeps: the output only if a derivative is known from it."""
    input, weight, bias, scale, shift, *integers = inputs
    activation, sums = integers[8], integers[10]
    result = output[0] if sums or activation in _FROM_OUTPUT else None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, weight, bias, scale, shift, result)
    ctx.integers = tuple(integers)


def backward(ctx: Any, grad, grad_sum, grad_squares):
    """For torch.library.register_autograd."""
    return *_gradients(ctx, grad, grad_sum, grad_squares), *(None,) * 12


def _grad_of_output(grad, grad_sum, grad_squares, output, sums):
    # What was not asked for is an empty placeholder, whose gradient means nothing.
    grad_sum = grad_sum if _MOMENTS[sums] > 0 else None
    grad_squares = grad_squares if _MOMENTS[sums] > 1 else None
    if grad_sum is None and grad_squares is None:
        return grad
    terms = [] if grad is None else [grad]
    if grad_sum is not None:
        terms.append(grad_sum[..., None, None])
    if grad_squares is not None:
        terms.append(2 * output * grad_squares[..., None, None])
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.expand_as(output).to(output.dtype)


def _gradients(ctx: Any, grad, grad_sum, grad_squares):
    input, weight, bias, scale, shift, output = ctx.saved_tensors
    *geometry, activation, input_activation, sums, backend = ctx.integers
    needs = ctx.needs_input_grad[:5]
    grad = _grad_of_output(grad, grad_sum, grad_squares, output, sums)
    if grad is None:
        return (None,) * 5
    operators = BY_BACKEND[backend]
    source = input
    has_prologue = scale is not None or input_activation
    if has_prologue:
        affine = fallback.affine(input, scale, shift)
        source = fallback.activate(affine, input_activation).to(input.dtype)
    if activation in _FROM_OUTPUT:
        grad = fallback.activation_backward(grad, output, activation)
    elif activation and torch.is_grad_enabled():
        pre = operators.public_forward(source, weight, bias, *geometry, 0, backend)
        grad = fallback.activation_backward(grad, pre, activation)
    elif activation:
        grad = operators.public_activation_backward(
            grad, source, weight, bias, *geometry, activation, backend
        )
    need_source = needs[0] or needs[3] or needs[4]
    need_bias = bias is not None and needs[2]
    grad_source, grad_weight, grad_bias = operators.public_backward(
        grad, source, weight, *geometry, need_source, needs[1], need_bias, backend
    )
    grad_input = grad_scale = grad_shift = None
    if need_source and has_prologue:
        grad_affine = grad_source.to(affine.dtype)
        if input_activation:
            grad_affine = fallback.activation_backward(grad_affine, affine, input_activation)
        if needs[0]:
            grad_input = fallback.affine(grad_affine, scale, None).to(input.dtype)
        if needs[3]:
            grad_scale = (grad_affine * input).sum((0, 2, 3))
        if needs[4]:
            grad_shift = grad_affine.sum((0, 2, 3))
    elif need_source:
        grad_input = grad_source
    return (
        grad_input,
        grad_weight if needs[1] else None,
        grad_bias if need_bias else None,
        grad_scale,
        grad_shift,
    )


def _fake(input, weight, bias, scale, shift, *integers):
    output = registration.fake_forward(input, weight, bias, *integers)
    channels, moments = weight.shape[0], _MOMENTS[integers[10]]
    spatial, channel = (input.shape[0], channels), (channels,)
    shapes: tuple = (((0,), (0,)), (spatial, (0,)), (channel, channel))[moments]
    dtype = fallback.accumulation_dtype(input.dtype)
    return output, *(input.new_empty(shape, dtype=dtype) for shape in shapes)


def _autocast(input, weight, bias, scale, shift, *integers):
    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    cast = registration.cast(torch.get_autocast_dtype("cpu"), input, weight, bias)
    with torch._C._ExcludeDispatchKeyGuard(excluded):
        return PUBLIC(*cast, scale, shift, *integers)


def register() -> None:
    """Called once, after the native library is loaded."""
    library = torch.library.Library("effkern", "IMPL")
    _libraries.append(library)
    for name in (_NAME, f"_{_NAME}"):
        torch.library.register_fake(f"effkern::{name}", _fake)
    library.impl(f"_{_NAME}", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_autograd(f"effkern::{_NAME}", backward, setup_context=setup)
    library.impl(_NAME, _autocast, "AutocastCPU")
