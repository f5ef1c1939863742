"""Gradients of depthwise_conv2d to any order, for the eager path and for the public operators.

The backward of the backward is the operator again: it is linear in each of its two tensors, so with
L = <grad_input, u> + <grad_weight, v> + <grad_bias, t>
    dL/d grad_output = conv(u, weight) + conv(input, v) + t
    dL/d input       = the input gradient with v in place of weight
    dL/d weight      = the weight gradient with u in place of input.
"""

from __future__ import annotations

from typing import Any

import torch

from . import eager, fallback
from .arguments import ACTIVATIONS
from .operators import BY_BACKEND

# The derivative of these is known from the output.
_FROM_OUTPUT = (ACTIVATIONS["relu"], ACTIVATIONS["relu6"])


class Forward(torch.autograd.Function):
    """The operator in eager mode; arguments (input, weight, bias, params, backend)."""

    @staticmethod
    def forward(ctx: Any, input, weight, bias, params, backend):
        output = eager.lean_forward_resolved(input, weight, bias, params, backend)
        if output is None:
            output = eager.forward(input, weight, bias, params, backend)
        ctx.args = params, backend, bias is not None
        activation = params[8]
        if not activation:
            ctx.save_for_backward(input, weight)
        else:
            extra = output if activation in _FROM_OUTPUT else bias
            ctx.save_for_backward(input, weight, extra)
        return output

    @staticmethod
    def backward(ctx: Any, grad):
        params, backend, has_bias = ctx.args
        input, weight, *extra = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()
        activation = params[8]
        if activation in _FROM_OUTPUT:
            grad = fallback.activation_backward(grad, extra[0], activation)
        elif activation and differentiable:
            pre = Forward.apply(input, weight, extra[0], (*params[:8], 0), backend)
            grad = fallback.activation_backward(grad, pre, activation)
        elif activation:
            grad = BY_BACKEND[backend].lean_activation_backward(
                grad, input, weight, extra[0], *params, backend
            )
        needs = ctx.needs_input_grad
        needs = (needs[0], needs[1], has_bias and needs[2])
        if differentiable:
            grads = Backward.apply(grad, input, weight, params[:8], needs, backend)
            return *grads, None, None
        grad_input, grad_weight, grad_bias = eager.backward(
            grad, input, weight, params[:8], needs, backend
        )
        return (
            grad_input if needs[0] else None,
            grad_weight if needs[1] else None,
            grad_bias if needs[2] else None,
            None,
            None,
        )


# Forward.apply without the checks for functorch, which the caller has made: they cost as much as
# the rest of a small call.
forward = super(torch.autograd.Function, Forward).apply


class Backward(torch.autograd.Function):
    """The gradients in eager mode, differentiable again."""

    @staticmethod
    def forward(ctx: Any, grad_output, input, weight, params, needs, backend):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_output, input, weight)
        ctx.args = params, backend
        grads = eager.backward(grad_output, input, weight, params, needs, backend)
        return tuple(g if needed else None for g, needed in zip(grads, needs, strict=True))

    @staticmethod
    def backward(ctx: Any, u, v, t):
        params, backend = ctx.args
        saved = ctx.saved_tensors
        grads = _double_backward(saved, (u, v, t), params, backend, Forward.apply, Backward.apply)
        return *grads, None, None, None


def _double_backward(saved, incoming, params, backend, forward, backward):
    grad_output, input, weight = saved
    u, v, t = incoming
    if u is None and v is None and t is None:
        return None, None, None
    grad_grad_output = None
    if u is not None:
        grad_grad_output = forward(u, weight, None, (*params, 0), backend)
    if v is not None or t is not None:
        through_weight = forward(
            input, torch.zeros_like(weight) if v is None else v, t, (*params, 0), backend
        )
        grad_grad_output = (
            through_weight if grad_grad_output is None else grad_grad_output + through_weight
        )
    # Each gradient exists only if its own factor does.
    grad_input, grad_weight, _ = backward(
        grad_output,
        input if u is None else u,
        weight if v is None else v,
        params,
        (v is not None, u is not None, False),
        backend,
    )
    return (
        grad_grad_output,
        grad_input if v is not None else None,
        grad_weight if u is not None else None,
    )


def _public_forward(input, weight, bias, params, backend):
    return BY_BACKEND[backend].public_forward(input, weight, bias, *params, backend)


def _public_backward(grad_output, input, weight, params, needs, backend):
    return BY_BACKEND[backend].public_backward(grad_output, input, weight, *params, *needs, backend)


def setup_forward(ctx: Any, inputs, output) -> None:
    """For torch.library.register_autograd of the public operator."""
    input, weight, bias, *rest = inputs
    ctx.args = tuple(rest[:9]), rest[9], bias is not None
    extra = output if rest[8] in _FROM_OUTPUT else bias
    ctx.save_for_backward(input, weight, extra if rest[8] else None)


def backward_of_forward(ctx: Any, grad):
    params, backend, has_bias = ctx.args
    input, weight, extra = ctx.saved_tensors
    activation = params[8]
    if activation in _FROM_OUTPUT:
        grad = fallback.activation_backward(grad, extra, activation)
    elif activation and torch.is_grad_enabled():
        pre = _public_forward(input, weight, extra, (*params[:8], 0), backend)
        grad = fallback.activation_backward(grad, pre, activation)
    elif activation:
        grad = BY_BACKEND[backend].public_activation_backward(
            grad, input, weight, extra, *params, backend
        )
    needs = ctx.needs_input_grad
    needs = (needs[0], needs[1], has_bias and needs[2])
    grads = _public_backward(grad, input, weight, params[:8], needs, backend)
    return (
        *(g if needed else None for g, needed in zip(grads, needs, strict=True)),
        *(None,) * 10,
    )


def setup_backward(ctx: Any, inputs, output) -> None:
    grad_output, input, weight, *rest = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad_output, input, weight)
    # Outputs that were not asked for are empty placeholders: their gradients mean nothing.
    ctx.args = tuple(rest[:8]), tuple(rest[8:11]), rest[11]


def backward_of_backward(ctx: Any, u, v, t):
    params, needs, backend = ctx.args
    incoming = tuple(g if needed else None for g, needed in zip((u, v, t), needs, strict=True))
    grads = _double_backward(
        ctx.saved_tensors, incoming, params, backend, _public_forward, _public_backward
    )
    return *grads, *(None,) * 12


def setup_activation_backward(ctx: Any, inputs, output) -> None:
    grad_output, input, weight, bias, *rest = inputs
    ctx.save_for_backward(grad_output, input, weight, bias)
    ctx.args = tuple(rest[:9]), rest[9]


def backward_of_activation_backward(ctx: Any, v):
    params, backend = ctx.args
    needs = ctx.needs_input_grad[:4]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that a saved tensor that depends on another one is not followed into it.
        saved: list[Any] = [t if t is None else t.view_as(t) for t in ctx.saved_tensors]
        grad_output, input, weight, bias = saved
        pre = _public_forward(input, weight, bias, (*params[:8], 0), backend)
        out = fallback.activation_backward(grad_output, pre, params[8])
    wanted = [t for t, needed in zip(saved, needs, strict=True) if needed]
    grads = iter(torch.autograd.grad(out, wanted, v, create_graph=create_graph))
    return *(next(grads) if needed else None for needed in needs), *(None,) * 10
