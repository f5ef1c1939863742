"""What the operators with Triton kernels for inference only ask of a call before they run it."""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import Parameter

from ... import registry
from ...testing import interpreter_guard

# Where each backend's tensors are.
_DEVICES = {registry.BACKENDS["triton"]: "cuda", registry.BACKENDS["triton_interpreted"]: "cpu"}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def asked_for(tensors: list[Tensor]) -> bool:
    """Whether a backend of Triton's is selected, for an eager call without gradients, transforms
    and autocast. Other calls are composed of other operators."""
    device = tensors[0].device.type
    return (
        registry.selected in _DEVICES
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
        and all(type(t) in (Tensor, Parameter) for t in tensors)
        and not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device))
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


def check(name: str, input: Tensor, limit: str | None) -> None:
    """Readies the selected backend for `input`.

    Args:
        name: of the function. limit: what else keeps its kernel from a call, in words.

    Raises:
        RuntimeError: the backend is not there, or has no kernel for the call.
    """
    backend = registry.current()
    device = _DEVICES[registry.selected]
    reason = registry.unavailable_reason(backend)
    if reason is None and (input.device.type != device or not has_dtype(input.dtype)):
        wanted = f"float32, float16 or bfloat16 on {device}"
        reason = f"it has no kernel for {input.dtype} on {input.device}, only for {wanted}"
    reason = reason or limit
    if reason is not None:
        raise RuntimeError(
            f"{name}: backend: wanted one that can run this call, got {backend!r}: {reason}"
        )
    if device == "cpu":
        # Without it, the interpreter computes other numbers than a GPU.
        interpreter_guard.install()


def has_dtype(dtype: torch.dtype) -> bool:
    """Whether the kernels have it."""
    return dtype in _DTYPES


def takes(input: Tensor) -> bool:
    """Whether the selected backend runs kernels on `input`; see `check`."""
    return (
        registry.unavailable_reason(registry.current()) is None
        and input.device.type == _DEVICES[registry.selected]
        and has_dtype(input.dtype)
    )


def outputs(
    input: Tensor, shape: tuple[int, ...], memory_format: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Fresh memory for a result, and for what a kernel of channels_last images writes: the same, or
    a tensor that is to be copied to it."""
    last = torch.channels_last
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format)
    if output.is_contiguous(memory_format=last):
        return output, output
    return output, torch.empty_like(output, memory_format=last)
