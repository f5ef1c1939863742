"""Fakes, autograd, autocast and vmap rules of the operators of every backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import autograd, eager
from .operators import ACTIVATION_BACKWARD, BACKWARD, BY_BACKEND, CARRIERS, FORWARD, Operators

# Kept alive: the registrations go when the objects do.
_libraries: list[torch.library.Library] = []


def _format(*tensors: Tensor) -> torch.memory_format:
    """channels_last if one of the tensors is, as for torch's convolution."""
    for tensor in tensors:
        if torch._prims_common.suggest_memory_format(tensor) == torch.channels_last:
            return torch.channels_last
    return torch.contiguous_format


def _empty(like: Tensor, shape: tuple, memory_format: torch.memory_format) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _check_fakes(name: str, input: Tensor, weight: Tensor, stride_h: int, stride_w: int) -> None:
    """What the fakes rely on, in the words of the kernels."""
    for argument, tensor in (("input", input), ("weight", weight)):
        if tensor.dim() != 4:
            raise RuntimeError(
                f"effkern.{name}: {argument}: wanted 4 dimensions, got {tuple(tensor.shape)}"
            )
    if stride_h < 1 or stride_w < 1:
        raise RuntimeError(
            f"effkern.{name}: stride: wanted values >= 1, got {[stride_h, stride_w]}"
        )


def fake_forward(
    input, weight, bias, stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, *_
):
    _check_fakes(FORWARD, input, weight, stride_h, stride_w)
    batch, _, height, width = input.shape
    kernel_h, kernel_w = weight.shape[2], weight.shape[3]
    out_h = (height + top + bottom - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (width + left + right - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
    return _empty(input, (batch, weight.shape[0], out_h, out_w), _format(input, weight))


def _fake_backward(grad_output, input, weight, *args):
    _check_fakes(BACKWARD, input, weight, *args[:2])
    need_input, need_weight, need_bias = args[8:11]
    nothing = (0,)
    return (
        _empty(input, input.shape, _format(input)) if need_input else input.new_empty(nothing),
        _empty(weight, weight.shape, torch.contiguous_format)
        if need_weight
        else weight.new_empty(nothing),
        weight.new_empty((weight.shape[0],) if need_bias else nothing),
    )


def _fake_activation_backward(grad_output, input, weight, *_):
    return _empty(grad_output, grad_output.shape, _format(input, weight))


def _autocast(device: str, key: torch._C.DispatchKey) -> Any:
    excluded = torch._C.DispatchKeySet(key)

    def kernel(input, weight, bias, *args):
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return BY_BACKEND[args[-1]].public_forward(*cast(dtype, input, weight, bias), *args)

    return kernel


def cast(dtype: torch.dtype, *tensors: Any) -> list[Any]:
    """As autocast casts the arguments of a convolution: every floating one but float64."""
    return [
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]


def _vmap_forward(info, in_dims, input, weight, bias, *args):
    """Folds the mapped dimension into the batch, or, if the weights are mapped, into the channels,
    which a depthwise convolution does not mix."""
    input_dim, weight_dim, bias_dim = in_dims[:3]
    size = info.batch_size
    forward = BY_BACKEND[args[-1]].public_forward
    if weight_dim is None and bias_dim is None:
        folded = input.movedim(input_dim, 0)
        output = forward(folded.flatten(0, 1), weight, bias, *args)
        return output.unflatten(0, (size, -1)), 0

    def to_front(tensor, dim):
        return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

    folded = to_front(input, input_dim).movedim(0, 1).flatten(1, 2)
    weight = to_front(weight, weight_dim).flatten(0, 1)
    bias = None if bias is None else to_front(bias, bias_dim).flatten(0, 1)
    output = forward(folded, weight, bias, *args)
    return output.unflatten(1, (size, -1)), 1


def _fake_packed_forward(input, weight, bias, call):
    geometry, _, _ = eager.unpack(call)
    return fake_forward(input, weight, bias, *geometry)


def _fake_packed_backward(grad_output, input, weight, call):
    geometry, needs, _ = eager.unpack(call)
    return _fake_backward(
        grad_output, input, weight, *geometry, *(needs >> i & 1 for i in (0, 1, 2))
    )


def register() -> None:
    """Called once, after the native library is loaded."""
    for operators in CARRIERS:
        _register(operators)
    library = torch.library.Library("effkern", "IMPL")
    _libraries.append(library)
    for name, fake in (
        (eager.PACKED_FORWARD, _fake_packed_forward),
        (eager.PACKED_BACKWARD, _fake_packed_backward),
    ):
        torch.library.register_fake(f"effkern::{name}", fake)
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")


def _register(operators: Operators) -> None:
    namespace, suffix = operators.namespace, operators.suffix
    library = torch.library.Library(namespace, "IMPL")
    _libraries.append(library)
    for prefix in ("", "_"):
        for name, fake in (
            (FORWARD, fake_forward),
            (BACKWARD, _fake_backward),
            (ACTIVATION_BACKWARD, _fake_activation_backward),
        ):
            name = f"{prefix}{name}{suffix}"
            torch.library.register_fake(f"{namespace}::{name}", fake)
            if prefix:
                # No autograd of its own: effkern.ops.depthwise_conv2d.autograd wraps it.
                library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    for name, backward, setup_context in (
        (FORWARD, autograd.backward_of_forward, autograd.setup_forward),
        (BACKWARD, autograd.backward_of_backward, autograd.setup_backward),
        (
            ACTIVATION_BACKWARD,
            autograd.backward_of_activation_backward,
            autograd.setup_activation_backward,
        ),
    ):
        torch.library.register_autograd(
            f"{namespace}::{name}{suffix}", backward, setup_context=setup_context
        )
    keys = torch._C.DispatchKey
    forward = FORWARD + suffix
    library.impl(forward, _autocast("cpu", keys.AutocastCPU), "AutocastCPU")
    library.impl(forward, _autocast("cuda", keys.AutocastCUDA), "AutocastCUDA")
    torch.library.register_vmap(f"{namespace}::{forward}", _vmap_forward)
