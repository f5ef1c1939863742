"""fused_mbconv as one CUDA kernel: which calls it takes, and the call."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import Parameter

from ... import _library, registry

if TYPE_CHECKING:
    from ..._C import FusedMBConvPlan
    from . import _Block

_NAME = "effkern.fused_mbconv"
_CUDA, _EMULATED = registry.BACKENDS["cuda"], registry.BACKENDS["cuda_emulated"]
# Tensors of no other device are for the backend.
_DEVICES = {_CUDA: "cuda", _EMULATED: "cpu"}
_CHANNELS_LAST = torch.channels_last


def run(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor | None:
    """The result of an eager call without gradients, with backend "cuda" or "cuda_emulated"; None
    for every other call.

    Raises:
        RuntimeError: the kernel does not take the call.
    """
    backend = registry.selected
    device = _DEVICES.get(backend)
    # A kernel that does not fit into the input is torch's to refuse.
    if device is None or min(block.size) < 1:
        return None
    if not _infers([t for t in (input, *block[:4], residual) if t is not None], device):
        return None
    if reason := _refusal(backend, input, block, residual):
        raise RuntimeError(
            f"{_NAME}: input: wanted a call that the CUDA kernel takes, got {reason}"
        )
    scope = torch.ops.effkern if backend == _CUDA else torch.ops.effkern_emulated
    weight, bias, project_weight, project_bias, params, _ = block
    return scope.fused_mbconv.default(
        input,
        # Copied on each call where it is not in this layout: twice its bytes.
        _aligned(weight.contiguous(memory_format=_CHANNELS_LAST)),
        _contiguous(bias),
        None if project_weight is None else _aligned(project_weight.contiguous()),
        _contiguous(project_bias),
        None if residual is None else _aligned(residual.contiguous(memory_format=_CHANNELS_LAST)),
        *params[:6],
        params[8],
        backend,
    )


def _infers(tensors: list[Tensor], device: str) -> bool:
    return not (
        any(type(t) not in (Tensor, Parameter) or t.device.type != device for t in tensors)
        or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        or torch.is_autocast_enabled(device)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def _contiguous(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """A copy, if a view does not begin at 16 bytes."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _refusal(backend: int, input: Tensor, block: _Block, residual: Tensor | None) -> str | None:
    """Why the kernel does not take the call, in words."""
    if backend == _CUDA:
        if not _library.has_cuda_kernels():
            return "a build without CUDA"
        major, minor = torch.cuda.get_device_capability(input.device)
        if major < 8:
            return f"a device of capability {major}.{minor} instead of 8.0 or newer"
    elif not _library.emulation_available():
        return str(_library.emulation_error())
    # Of an image that is both, kernels and torch need not agree on which it is.
    last = input.is_contiguous(memory_format=_CHANNELS_LAST)
    if not last or input.is_contiguous():
        return "an input that is not channels_last"
    if input.data_ptr() % 16:
        return "an input that is not aligned to 16 bytes"
    hidden, _, kernel_h, kernel_w = block.expand_weight.shape
    out = 0 if block.project_weight is None else block.project_weight.shape[0]
    sizes = (*input.shape, hidden, out, kernel_h, kernel_w, *block.params[:6])
    return plan(str(input.dtype)[6:], residual is not None, *sizes).refusal


@functools.lru_cache(maxsize=256)
def plan(dtype: str, has_residual: bool, *sizes: int) -> FusedMBConvPlan:
    """The kernel's plan; `sizes` are the integers of `_C.plan_fused_mbconv`, in their order."""
    from ... import _C

    return _C.plan_fused_mbconv(dtype, has_residual, *sizes)
