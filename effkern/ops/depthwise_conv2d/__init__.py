"""depthwise_conv2d: the public function and the eager path to the operator."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn import Parameter

from ... import _library, registry
from . import fallback
from .arguments import ACTIVATIONS, Params, resolve, resolve_plain

__all__ = ["ACTIVATIONS", "Params", "depthwise_conv2d", "resolve", "run"]

if _library.available():
    from . import autograd, eager, registration
    from .operators import BY_BACKEND

    registration.register()
    _lean_forward = eager.lean_forward
    _lean_forward_resolved = eager.lean_forward_resolved
else:

    def _lean_forward(*arguments: Any) -> None:
        return None

    _lean_forward_resolved = _lean_forward

_NAME = "effkern.depthwise_conv2d"
_AUTO = registry.BACKENDS["auto"]
_TORCH = registry.BACKENDS["torch"]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# CUDA joins when a committed measurement shows its kernels ahead of torch's on a device.
_AUTO_DEVICES = ("cpu",)

_is_compiling = torch.compiler.is_compiling
_in_functorch = torch._C._are_functorch_transforms_active
_tracing_state = torch._C._get_tracing_state
_is_autocast_enabled = torch.is_autocast_enabled
_is_grad_enabled = torch.is_grad_enabled

_warned_of_missing_library = False


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 0,
    dilation: int | tuple[int, int] = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    r"""Depthwise 2-D convolution with an optional fused activation.

    Computes ``activation(torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation,
    groups=C))``: each input channel is convolved with its own ``M`` kernels. Differentiable to any
    order in `input`, `weight` and `bias`.

    Args:
        input: (N, C, H, W) or (C, H, W); float64, float32, float16 or bfloat16; any strides
            (contiguous and channels_last are fast, nothing is copied to another layout).
        weight: (C * M, 1, kH, kW), same dtype; M is the depth multiplier, output channel ``o``
            reads input channel ``o // M``.
        bias: (C * M,) or None, same dtype.
        stride, dilation: pixels, an int or (vertical, horizontal).
        padding: zeros added at each border, in pixels: an int, (vertical, horizontal), "valid",
            "same" (stride 1 only; an odd total adds one more below and on the right), or
            ((top, bottom), (left, right)).
        activation: None, "relu", "relu6", "silu", "gelu" (exact), "gelu_tanh" or "hardswish".

    Returns:
        (N, C * M, H', W'), or (C * M, H', W') for an unbatched input, in the memory format that
        ``torch.nn.functional.conv2d`` would give. 16-bit types are accumulated in float32 and
        rounded once, after bias and activation; float64 is accumulated in float64.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not go together, values out of range, or a
            backend asked for by name that cannot run the call.
        TypeError: an argument that is no tensor, int or str where one is wanted.
        ValueError: an unknown activation.

    Where effkern has no kernel (other dtypes and devices, functorch transforms, forward-mode AD,
    TorchScript tracing, ONNX export) backend "auto" runs torch's convolution.

    Source: EfficientNetV2 (arXiv 2104.00298), section 3.2, for why; the accumulation order and the
    packing of the CPU kernels are described in docs/ops/depthwise_conv2d.md.
    """
    if not _is_compiling():
        output = _lean_forward(
            input, weight, bias, stride, padding, dilation, activation, registry.selected
        )
        if output is not None:
            return output
        plain = resolve_plain(stride, padding, dilation, activation)
        if plain is not None:
            return _run_eagerly(input, weight, bias, plain)
    try:
        kernel_h, kernel_w = weight.shape[-2:]
    except (AttributeError, TypeError, ValueError):
        raise _bad_tensors(input, weight, bias) from None
    params = resolve((kernel_h, kernel_w), stride, padding, dilation, activation)
    return run(input, weight, bias, params)


def run(input: Tensor, weight: Tensor, bias: Tensor | None, params: Params) -> Tensor:
    """depthwise_conv2d with arguments already resolved: what modules call."""
    if _is_compiling():
        return _traced(input, weight, bias, params, registry.selected)
    output = _lean_forward_resolved(input, weight, bias, params, registry.selected)
    return _run_eagerly(input, weight, bias, params) if output is None else output


def _run_eagerly(input: Tensor, weight: Tensor, bias: Tensor | None, params: Params) -> Tensor:
    backend = registry.selected
    kind = type(input)
    if (
        (kind is not Tensor and kind is not Parameter)
        or not isinstance(weight, Tensor)
        or not (bias is None or isinstance(bias, Tensor))
    ):
        return _foreign(input, weight, bias, params, backend)
    if (
        backend == _TORCH
        or not _library.available()
        or _in_functorch()
        or forward_ad._current_level >= 0
        or _tracing_state() is not None
    ):
        return _torch(input, weight, bias, params, backend)
    if input.is_cpu and weight.is_cpu and (bias is None or bias.is_cpu):
        device = "cpu"
    elif input.is_cuda and weight.is_cuda and backend != _AUTO:
        device = "cuda"
    else:
        return _torch(input, weight, bias, params, backend)
    if _is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            cast_input, cast_weight, cast_bias = registration.cast(dtype, input, weight, bias)
            return _run_eagerly(cast_input, cast_weight, cast_bias, params)
    if input.dtype not in _DTYPES:
        return _torch(input, weight, bias, params, backend)
    if input.dim() == 3:
        return _run_eagerly(input.unsqueeze(0), weight, bias, params).squeeze(0)
    if _is_grad_enabled() and (
        input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return autograd.forward(input, weight, bias, params, backend)
    return eager.forward(input, weight, bias, params, backend)


def _traced(input, weight, bias, params, backend):
    """Under torch.compile and torch.export: one opaque node. No plan is made here, it would look at
    the sizes and so be compiled again for each of them."""
    if (
        backend == _TORCH
        or not _library.available()
        or torch.onnx.is_in_onnx_export()
        or input.dtype not in _DTYPES
        or (backend == _AUTO and input.device.type not in _AUTO_DEVICES)
    ):
        return fallback.forward(input, weight, bias, params)
    if input.dim() == 3:
        return _traced(input.unsqueeze(0), weight, bias, params, backend).squeeze(0)
    return BY_BACKEND[backend].public_forward(input, weight, bias, *params, backend)


def _foreign(input, weight, bias, params, backend):
    """Not plain tensors: a tensor subclass goes where torch takes it, anything else is an error."""
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
    ):
        raise _bad_tensors(input, weight, bias)
    if isinstance(input, torch._subclasses.FakeTensor) and _library.available():
        return _traced(input, weight, bias, params, backend)
    return _torch(input, weight, bias, params, backend)


def _torch(input, weight, bias, params, backend):
    """torch's convolution, unless a backend asked for by name has no kernel for this call."""
    if backend not in (_AUTO, _TORCH) and not (
        _in_functorch() or forward_ad._current_level >= 0 or _tracing_state() is not None
    ):
        name = registry.current()
        reason = registry.unavailable_reason(name) or (
            f"it has no kernel for input {input.dtype} on {input.device}, "
            f"weight {weight.dtype} on {weight.device}"
            + ("" if bias is None else f", bias {bias.dtype} on {bias.device}")
        )
        raise RuntimeError(
            f"{_NAME}: backend: wanted one that can run this call, got {name!r}: {reason}"
        )
    if backend == _AUTO and not _library.available():
        _warn_of_missing_library()
    # A trace would record the checks, with a warning for each.
    if _tracing_state() is None:
        _check_depthwise(input, weight, bias)
    return fallback.forward(input, weight, bias, params)


def _warn_of_missing_library() -> None:
    global _warned_of_missing_library
    if not _warned_of_missing_library:
        _warned_of_missing_library = True
        warnings.warn(
            f"effkern uses torch's convolutions: {_library.load_error()}", RuntimeWarning, 4
        )


def _check_depthwise(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """The checks that torch's convolution lacks, or words without names."""
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"{_NAME}: input: wanted (C, H, W) or (N, C, H, W), got {tuple(input.shape)}"
        )
    channels = input.shape[-3]
    if weight.dim() != 4 or weight.shape[1] != 1 or channels == 0 or weight.shape[0] % channels:
        raise RuntimeError(
            f"{_NAME}: weight: wanted (C * M, 1, kH, kW) for C = {channels} input channels, "
            f"got {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise RuntimeError(
            f"{_NAME}: bias: wanted shape ({weight.shape[0]},), got {tuple(bias.shape)}"
        )


def _bad_tensors(input: Any, weight: Any, bias: Any) -> Exception:
    for name, value in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            return TypeError(f"{_NAME}: {name}: wanted a Tensor, got {type(value).__name__}")
    return RuntimeError(
        f"{_NAME}: weight: wanted (C * M, 1, kH, kW), got shape {tuple(weight.shape)}"
    )
