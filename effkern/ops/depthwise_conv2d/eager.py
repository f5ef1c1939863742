"""The operators as the eager path calls them.

On CPU the integers of a call travel as one: torch takes 0.2 microseconds for each argument of an
operator, which is what a small convolution has for all of its own
(csrc/depthwise_conv2d/depthwise_conv2d_packed_op.cpp unpacks them).

Where nothing but the arithmetic is to happen (plain tensors on the CPU, no gradients recorded, no
transforms, modes or profiler), functions of effkern._C do without an operator
(csrc/depthwise_conv2d/depthwise_conv2d_eager_module.cpp). They return None for all other calls.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from ... import _library
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


_Lean = Callable[..., Any]


def _empty_strided() -> Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]:
    """Of (size, stride, dtype): what the code that Inductor generates calls, in half of the time of
    torch.empty_strided."""
    fast = getattr(torch._C._dynamo.guards, "_empty_strided_cpu", None)
    if fast is not None:
        return fast
    return lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device="cpu")


def _lean_functions() -> tuple[_Lean, _Lean, _Lean]:
    """eager_forward, eager_forward_resolved and eager_backward of effkern._C, or functions that
    return None where torch has no C interface to its tensors that they know."""
    try:
        from ... import _C

        entry = ctypes.CDLL(str(_library.path())).effkern_eager_kernels
        entry.restype = ctypes.c_void_p
        usable = _C.configure_eager(
            {
                "kernels": entry(),
                "exchange_api": torch.Tensor.__dlpack_c_exchange_api__,
                "tensor": Tensor,
                "parameter": torch.nn.Parameter,
                "empty_strided": _empty_strided(),
                "in_functorch": torch._C._are_functorch_transforms_active,
                "dispatch_modes": torch._C._len_torch_dispatch_stack,
                "function_modes": torch._C._len_torch_function_stack,
                "tracing_state": torch._C._get_tracing_state,
                "autocast_enabled": torch._C._is_any_autocast_enabled,
                "grad_enabled": torch.is_grad_enabled,
                "forward_ad": vars(forward_ad),
                "profiler": vars(torch.autograd.profiler),
                "float64": torch.float64,
                "float32": torch.float32,
                "float16": torch.float16,
                "bfloat16": torch.bfloat16,
            }
        )
    except (AttributeError, ImportError, KeyError, OSError, ValueError):
        usable = False
    if not usable:
        return _no_lean_path, _no_lean_path, _no_lean_path
    return _C.eager_forward, _C.eager_forward_resolved, _C.eager_backward


def _no_lean_path(*arguments: Any) -> None:
    return None


lean_forward, lean_forward_resolved, lean_backward = _lean_functions()


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
    """The gradients of input, weight and bias, without autograd; one that is not needed is None or
    an empty tensor."""
    gradients = lean_backward(grad_output, input, weight, geometry, needs, backend)
    if gradients is not None:
        return gradients
    if input.is_cpu:
        call = _pack_backward(geometry, needs, backend)
        if call is not None:
            return _packed_backward(grad_output, input, weight, call)
    return BY_BACKEND[backend].lean_backward(grad_output, input, weight, *geometry, *needs, backend)
