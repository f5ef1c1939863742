"""What the operators that have kernels on the CPU only ask of a call before they run it."""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import Parameter

from ... import _library, registry
from . import _DTYPES

_BACKENDS = (registry.BACKENDS["auto"], registry.BACKENDS["cpu"])
_PLAIN = (Tensor, Parameter, torch._subclasses.FakeTensor)


def can_run(tensors: list[Tensor]) -> bool:
    """Whether a single opaque operator can serve a call, eager or compiled; see `depthwise_conv2d`.

    `tensors[0]` is the input. What no operator serves is composed of others.
    """
    if (
        registry.selected not in _BACKENDS
        or tensors[0].dtype not in _DTYPES
        or not _library.available()
    ):
        return False
    if torch.compiler.is_compiling():
        return not torch.onnx.is_in_onnx_export() and all(t.device.type == "cpu" for t in tensors)
    for tensor in tensors:
        if type(tensor) not in _PLAIN or not tensor.is_cpu:
            return False
    return (
        not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
    )


def per_channel(
    name: str,
    argument: str,
    value: Tensor,
    channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """`value` in `dtype`.

    Raises:
        RuntimeError: it is not one floating number per channel on `device`; `name` is the function.
    """
    if value.dim() != 1 or value.shape[0] != channels:
        raise RuntimeError(
            f"{name}: {argument}: wanted shape ({channels},), got {tuple(value.shape)}"
        )
    if not value.is_floating_point():
        raise RuntimeError(f"{name}: {argument}: wanted a floating dtype, got {value.dtype}")
    if value.device != device:
        raise RuntimeError(
            f"{name}: {argument}: wanted device {device} as input is on, got {value.device}"
        )
    return value if value.dtype == dtype else value.to(dtype)
