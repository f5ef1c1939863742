"""Fakes, autograd and autocast rules of torch.ops.effkern.depthwise_conv2d_layer_norm.

The backward operator computes the convolution's result z again, from it the gradients of z, of the
LayerNorm's weight and of its bias, in one pass; the gradient of z goes through the backward of
depthwise_conv2d.
"""

from __future__ import annotations

from typing import Any

import torch

from ...registry import BACKENDS
from ..depthwise_conv2d import fallback, registration
from ..depthwise_conv2d.operators import BY_BACKEND

_NAME = "depthwise_conv2d_layer_norm"
_OPERATORS = torch.ops.effkern
PUBLIC = _OPERATORS.depthwise_conv2d_layer_norm.default
PUBLIC_BACKWARD = _OPERATORS.depthwise_conv2d_layer_norm_backward.default
# Without autograd of its own: cheaper inside an autograd.Function.
LEAN = _OPERATORS._depthwise_conv2d_layer_norm.default
LEAN_BACKWARD = _OPERATORS._depthwise_conv2d_layer_norm_backward.default

_CPU = BACKENDS["cpu"]

# Kept alive: the registrations go when the object does.
_libraries: list[torch.library.Library] = []


class LayerNorm(torch.autograd.Function):
    """The operator in eager mode."""

    @staticmethod
    def forward(ctx: Any, *inputs):
        results = LEAN(*inputs)
        setup(ctx, inputs, results)
        return results[0]

    @staticmethod
    def backward(ctx: Any, grad):
        return backward(ctx, grad, None, None)


def setup(ctx: Any, inputs, output) -> None:
    input, weight, bias, norm_weight, norm_bias, eps, *pads = inputs
    _, mean, rstd = output
    ctx.set_materialize_grads(False)
    # Nobody differentiates through the statistics: they are not given to users.
    ctx.save_for_backward(input, weight, bias, norm_weight, norm_bias, mean, rstd)
    ctx.pads = tuple(pads)
    # Of the convolution in the backward.
    ctx.backend = _CPU


def backward(ctx: Any, grad, *_):
    """For torch.library.register_autograd."""
    if grad is None:
        return (None,) * 10
    # Read once: torch.utils.checkpoint allows no more.
    saved = ctx.saved_tensors
    input, weight, bias, norm_weight, _, mean, rstd = saved
    needs = ctx.needs_input_grad[:5]
    # Only the CPU has a kernel for it.
    if torch.is_grad_enabled() or ctx.backend != _CPU:
        norm = _differentiable(grad, saved, ctx.pads, ctx.backend)
    else:
        operator = PUBLIC_BACKWARD if torch.compiler.is_compiling() else LEAN_BACKWARD
        norm = operator(grad, input, weight, bias, norm_weight, mean, rstd, *ctx.pads)
    grad_convolution, grad_norm_weight, grad_norm_bias = norm
    gradients: tuple[Any, ...] = (None, None, None)
    if any(needs[:3]):
        need_bias = bias is not None and needs[2]
        gradients = BY_BACKEND[ctx.backend].public_backward(
            grad_convolution, input, weight, 1, 1, *ctx.pads, 1, 1,
            needs[0], needs[1], need_bias, ctx.backend,
        )  # fmt: skip
    results = (*gradients, grad_norm_weight, grad_norm_bias)
    return (
        *(g if needed else None for g, needed in zip(results, needs, strict=True)),
        *(None,) * 5,
    )


def _differentiable(grad, saved, pads, backend):
    """The backward operator's results by operators that have derivatives themselves."""
    input, weight, bias, norm_weight, norm_bias, mean, rstd = saved
    forward = BY_BACKEND[backend].public_forward
    z = forward(input, weight, bias, 1, 1, *pads, 1, 1, 0, backend)
    wide = fallback.accumulation_dtype(z.dtype)
    mask = [True, norm_weight is not None, norm_bias is not None]
    grad_z, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad.permute(0, 2, 3, 1).to(wide).contiguous(),
        z.permute(0, 2, 3, 1).to(wide).contiguous(),
        (z.shape[1],),
        mean.unsqueeze(-1),
        rstd.unsqueeze(-1),
        norm_weight,
        norm_bias,
        mask,
    )
    return grad_z.permute(0, 3, 1, 2).to(z.dtype), grad_weight, grad_bias


def _fake(input, weight, bias, norm_weight, norm_bias, eps, *pads):
    output = registration.fake_forward(input, weight, bias, 1, 1, *pads, 1, 1)
    dtype = fallback.accumulation_dtype(input.dtype)
    batch, _, height, width = output.shape
    statistics = [input.new_empty((batch, height, width), dtype=dtype) for _ in range(2)]
    return output, *statistics


def _fake_backward(grad, input, weight, bias, norm_weight, mean, rstd, *pads):
    output = registration.fake_forward(input, weight, bias, 1, 1, *pads, 1, 1)
    return output, *(mean.new_empty((weight.shape[0],)) for _ in range(2))


def _autocast(input, weight, bias, *rest):
    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    cast = registration.cast(torch.get_autocast_dtype("cpu"), input, weight, bias)
    with torch._C._ExcludeDispatchKeyGuard(excluded):
        return PUBLIC(*cast, *rest)


def register() -> None:
    """Called once, after the native library is loaded."""
    library = torch.library.Library("effkern", "IMPL")
    _libraries.append(library)
    for name, fake in ((_NAME, _fake), (f"{_NAME}_backward", _fake_backward)):
        for twin in (name, f"_{name}"):
            torch.library.register_fake(f"effkern::{twin}", fake)
        library.impl(f"_{name}", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_autograd(f"effkern::{_NAME}", backward, setup_context=setup)
    library.impl(_NAME, _autocast, "AutocastCPU")
