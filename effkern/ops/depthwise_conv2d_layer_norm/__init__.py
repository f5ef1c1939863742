"""depthwise_conv2d_layer_norm: depthwise convolution, bias and LayerNorm over the channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _library
from ..depthwise_conv2d import fallback, run
from ..depthwise_conv2d.arguments import resolve_for
from ..depthwise_conv2d.cpu_operators import can_run, per_channel
from . import cuda_backend, triton_backend

if _library.available():
    from ..depthwise_conv2d import registration
    from . import autograd

    autograd.register()

_NAME = "effkern.depthwise_conv2d_layer_norm"
_NAMES = ("input", "weight", "bias", "norm_weight", "norm_bias")
_is_compiling = torch.compiler.is_compiling


def depthwise_conv2d_layer_norm(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float = 1e-6,
    *,
    padding: int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]],
) -> Tensor:
    r"""Depthwise 2-D convolution with stride 1, then LayerNorm over the channels of each pixel.

    Computes ``z = depthwise_conv2d(input, weight, bias, padding=padding)`` and then
    ``(z - mean) / sqrt(var + eps) * norm_weight + norm_bias``, mean and variance (the biased one)
    over the channels of each pixel: the head of a ConvNeXt block. On CPU, channels_last and a 3x3,
    5x5 or 7x7 kernel, it is one pass: a block of rows is normalised while it is in the cache.

    Args:
        input, weight, bias, padding: as for :func:`depthwise_conv2d`.
        norm_weight, norm_bias: (C * M,), floating, or None for ones and zeros; used in float32
            (float64 for a float64 input).
        eps: added to the variance.

    Returns:
        (N, C * M, H', W'), or (C * M, H', W') for an unbatched input, in the memory format and
        dtype that :func:`depthwise_conv2d` would give. 16-bit types are rounded once, at the end,
        unless the call is composed.

    Raises:
        RuntimeError, TypeError, ValueError: as :func:`depthwise_conv2d`, and for a norm_weight or
            norm_bias of another shape, device or kind, or an `eps` that is no number.

    Differentiable to any order in all tensors. Saved for the backward are the arguments and one
    mean and one standard deviation per pixel; it computes the convolution again. Gradients do not
    depend on the number of threads. Under autocast input, weight and bias are cast, and so is the
    result, which torch's layer_norm would leave in float32.

    Backend "triton" has one kernel, too, for float32, float16 and bfloat16, 3x3, 5x5 and 7x7, M = 1
    and at most 1024 channels, where no gradient is needed, and so has "cuda", for channels_last
    images, whose backward is composed. Everything else is composed of :func:`depthwise_conv2d` and
    torch's layer_norm in float32; the convolution's result is then rounded to the input's dtype in
    between.

    Source: ConvNeXt (arXiv 2201.03545), LayerNorm (arXiv 1607.06450).
    """
    _check_types((input, weight, bias, norm_weight, norm_bias), eps)
    params = resolve_for(_NAME, weight, 1, padding, 1, None)
    channels, device = weight.shape[0], input.device
    dtype = fallback.accumulation_dtype(input.dtype)
    scale = shift = None
    if norm_weight is not None:
        scale = per_channel(_NAME, "norm_weight", norm_weight, channels, device, dtype)
    if norm_bias is not None:
        shift = per_channel(_NAME, "norm_bias", norm_bias, channels, device, dtype)
    return _run(input, weight, bias, scale, shift, float(eps), params[2:6])


def _check_types(tensors: tuple[Any, ...], eps: Any) -> None:
    for i, value in enumerate(tensors):
        if not isinstance(value, Tensor) and (value is not None or i < 2):
            wanted = "a Tensor" if i < 2 else "a Tensor or None"
            raise TypeError(f"{_NAME}: {_NAMES[i]}: wanted {wanted}, got {type(value).__name__}")
    input, weight = tensors[:2]
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"{_NAME}: input: wanted (C, H, W) or (N, C, H, W), got {tuple(input.shape)}"
        )
    if weight.dim() != 4:
        raise RuntimeError(f"{_NAME}: weight: wanted (C * M, 1, kH, kW), got {tuple(weight.shape)}")
    if not isinstance(eps, (int, float)) or isinstance(eps, bool):
        raise TypeError(f"{_NAME}: eps: wanted a float, got {type(eps).__name__}")


def _run(input, weight, bias, scale, shift, eps: float, pads: tuple[int, ...]) -> Tensor:
    if input.dim() == 3:
        return _run(input.unsqueeze(0), weight, bias, scale, shift, eps, pads).squeeze(0)
    compiling = _is_compiling()
    tensors = [t for t in (input, weight, bias, scale, shift) if t is not None]
    if not can_run(tensors):
        fused = triton_backend.forward(_NAME, input, weight, bias, scale, shift, eps, pads)
        if fused is None:
            fused = cuda_backend.forward(input, weight, bias, scale, shift, eps, pads)
        if fused is not None:
            return fused
        return compose(input, weight, bias, scale, shift, eps, pads)
    if not compiling and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            input, weight, bias = registration.cast(dtype, input, weight, bias)
            return _run(input, weight, bias, scale, shift, eps, pads)
    if compiling or type(input) is torch._subclasses.FakeTensor:
        return autograd.PUBLIC(input, weight, bias, scale, shift, eps, *pads)[0]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return autograd.LayerNorm.apply(input, weight, bias, scale, shift, eps, *pads)
    return autograd.LEAN(input, weight, bias, scale, shift, eps, *pads)[0]


def compose(input, weight, bias, scale, shift, eps: float, pads: tuple[int, ...]) -> Tensor:
    """The same of depthwise_conv2d, by the selected backend, and torch's layer_norm in float32."""
    output = run(input, weight, bias, (1, 1, *pads, 1, 1, 0))  # type: ignore[arg-type]
    wide = output.permute(0, 2, 3, 1).to(fallback.accumulation_dtype(output.dtype))
    with torch.autocast(input.device.type, enabled=False):
        normalized = torch.layer_norm(wide, (output.shape[1],), scale, shift, eps)
    normalized = normalized.to(output.dtype).permute(0, 3, 1, 2)
    if torch._prims_common.suggest_memory_format(output) == torch.channels_last:
        return normalized.contiguous(memory_format=torch.channels_last)
    return normalized.contiguous()
