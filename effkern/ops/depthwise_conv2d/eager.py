"""The operators as the eager path calls them.

On CPU the integers of a call travel as one: torch takes 0.2 microseconds for each argument of an
operator, which is what a small convolution has for all of its own
(csrc/depthwise_conv2d/depthwise_conv2d_packed_op.cpp unpacks them).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ...registry import BACKENDS
from .arguments import Params
from .operators import BY_BACKEND

_GEOMETRY_BITS, _EXTRA_BITS = 7, 4
# The backends whose kernels take packed calls, with tensors on the CPU.
_PACKED = (BACKENDS["auto"], BACKENDS["cpu"])

# OpOverload.__call__ only passes its arguments on.
PACKED_FORWARD = "_depthwise_conv2d_packed"
PACKED_BACKWARD = "_depthwise_conv2d_backward_packed"
_packed_forward = getattr(torch.ops.effkern, PACKED_FORWARD).default._op
_packed_backward = getattr(torch.ops.effkern, PACKED_BACKWARD).default._op


def pack(geometry: tuple[int, ...], extra: int, backend: int) -> int | None:
    """The call as one integer; None if a number is too large for its bits.

    Args:
        geometry: the eight integers of the schemas.
        extra: the activation, or one bit for each gradient that is needed.
    """
    if backend not in _PACKED or not all(0 <= value < 1 << _GEOMETRY_BITS for value in geometry):
        return None
    packed = backend << _EXTRA_BITS | extra
    for value in reversed(geometry):
        packed = packed << _GEOMETRY_BITS | int(value)
    return packed


def unpack(packed: int) -> tuple[tuple[int, ...], int, int]:
    """The arguments of `pack`."""
    geometry = []
    for _ in range(8):
        geometry.append(packed & ((1 << _GEOMETRY_BITS) - 1))
        packed >>= _GEOMETRY_BITS
    return tuple(geometry), packed & ((1 << _EXTRA_BITS) - 1), packed >> _EXTRA_BITS


@functools.lru_cache(maxsize=1024)
def _pack_forward(params: Params, backend: int) -> int | None:
    return pack(params[:8], params[8], backend)


@functools.lru_cache(maxsize=1024)
def _pack_backward(
    geometry: tuple[int, ...], needs: tuple[bool, bool, bool], backend: int
) -> int | None:
    return pack(geometry, sum(bool(need) << bit for bit, need in enumerate(needs)), backend)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, params: Params, backend: int
) -> Tensor:
    """The output, without autograd; all tensors are on one device."""
    if input.is_cpu:
        call = _pack_forward(params, backend)
        if call is not None:
            return _packed_forward(input, weight, bias, call)
    return BY_BACKEND[backend].lean_forward(input, weight, bias, *params, backend)


def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    geometry: tuple[int, ...],
    needs: tuple[bool, bool, bool],
    backend: int,
) -> Any:
    """The gradients of input, weight and bias, without autograd; one that is not needed is an empty
    tensor."""
    if input.is_cpu:
        call = _pack_backward(geometry, needs, backend)
        if call is not None:
            return _packed_backward(grad_output, input, weight, call)
    return BY_BACKEND[backend].lean_backward(grad_output, input, weight, *geometry, *needs, backend)
