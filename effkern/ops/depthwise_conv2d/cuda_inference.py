"""What the operators with CUDA kernels for the forward only ask of a call before they run it."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import Parameter

from ... import _library, registry

_CUDA, _EMULATED = registry.BACKENDS["cuda"], registry.BACKENDS["cuda_emulated"]
# Tensors of no other device are for the backend.
_DEVICES = {_CUDA: "cuda", _EMULATED: "cpu"}
_LAST = torch.channels_last
# Backend and kernel of effkern.explain, of a call that is composed.
COMPOSED = {"backend": "torch", "kernel": "aten::linear, aten::convolution"}


def asked_for(tensors: list[Tensor], *, differentiable: bool = False) -> bool:
    """Whether backend "cuda" or "cuda_emulated" is selected, for an eager call without transforms
    and autocast on its device, and without gradients unless the caller is `differentiable`. Other
    calls are composed of other operators."""
    device = _DEVICES.get(registry.selected)
    if device is None or torch.compiler.is_compiling():
        return False
    return not (
        any(type(t) not in (Tensor, Parameter) or t.device.type != device for t in tensors)
        or (not differentiable and needs_gradients(tensors))
        or torch.is_autocast_enabled(device)
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def needs_gradients(tensors: list[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def refusal(input: Tensor) -> str | None:
    """Why no kernel of the selected backend takes an image, in words."""
    if registry.selected == _CUDA:
        if not _library.has_cuda_kernels():
            return "a build without CUDA"
        major, minor = torch.cuda.get_device_capability(input.device)
        if major < 8:
            return f"a device of capability {major}.{minor} instead of 8.0 or newer"
    elif not _library.emulation_available():
        return str(_library.emulation_error())
    # Of an image that is both, kernels and torch need not agree on which it is.
    if not input.is_contiguous(memory_format=_LAST) or input.is_contiguous():
        return "an input that is not channels_last"
    if input.data_ptr() % 16:
        return "an input that is not aligned to 16 bytes"
    return None


def operators() -> Any:
    """The namespace of the selected backend's operators."""
    return torch.ops.effkern if registry.selected == _CUDA else torch.ops.effkern_emulated


def aligned(tensor: Tensor) -> Tensor:
    """A copy, if a view does not begin at 16 bytes."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def image(tensor: Tensor | None) -> Tensor | None:
    """Dense channels_last and aligned; a copy only where it is not."""
    return None if tensor is None else aligned(tensor.contiguous(memory_format=_LAST))


def dense(tensor: Tensor | None) -> Tensor | None:
    """Contiguous and aligned; a copy only where it is not."""
    return None if tensor is None else aligned(tensor.contiguous())
