"""depthwise_conv2d_fused: the convolution with an affine prologue and sums of its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _library, registry
from . import _bad_tensors, fallback, fused_cuda, run
from .arguments import ACTIVATIONS, Params, code_of, resolve, resolve_plain
from .cpu_operators import can_run, per_channel

if _library.available():
    from . import fused_autograd, registration

    fused_autograd.register()

# The values are part of the operator's schema; csrc/depthwise_conv2d/depthwise_conv2d.h has the
# same table.
SUMS: dict[str | None, int] = {None: 0, "channel": 1, "spatial": 2}
_CHANNEL = SUMS["channel"]

_NAME = "effkern.depthwise_conv2d_fused"
_is_compiling = torch.compiler.is_compiling


def depthwise_conv2d_fused(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 0,
    dilation: int | tuple[int, int] = 1,
    *,
    activation: str | None = None,
    input_scale: Tensor | None = None,
    input_shift: Tensor | None = None,
    input_activation: str | None = None,
    sums: str | None = None,
) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    r"""Depthwise 2-D convolution of a normalised input, with sums of the output on request.

    Computes :func:`depthwise_conv2d` of ``input_activation(input_scale * input + input_shift)``,
    one scale and one shift per input channel, without writing that tensor to memory: what applies
    a BatchNorm and an activation to the previous layer's output. Padding is added after it, so the
    borders are zeros. Sums of the output are taken while it is in the cache.

    Args:
        input, weight, bias, stride, padding, dilation, activation: as for `depthwise_conv2d`.
        input_scale, input_shift: (C,), floating, or None; used in float32 (float64 for a float64
            input). A shift wants a scale.
        input_activation: as `activation`.
        sums: None, "channel" (over N, H' and W', with those of the squares: what BatchNorm's
            statistics are made of) or "spatial" (over H' and W': squeeze-and-excitation's pooling).

    Returns:
        The output, with sums=None; (output, sum, sum of squares), the sums (C * M,), with
        "channel"; (output, sum), the sum (N, C * M) or (C * M,) for an unbatched input, with
        "spatial". Sums are float32 (float64 for a float64 input) and those of the returned output,
        after activation and rounding. Their error is at most twice that of ``torch.sum`` plus one
        rounding unit, and they do not depend on the number of threads.

    Raises:
        RuntimeError, TypeError, ValueError: as `depthwise_conv2d`, and for a scale or shift of
            another shape, a shift without a scale, or an unknown `input_activation` or `sums`.

    Differentiable in `input`, `weight`, `bias`, `input_scale` and `input_shift`, also through the
    sums; the backward computes the normalised input again and rounds it to the input's dtype. Fused
    on CPU, with backends "auto" and "cpu", and in eager mode with backend "cuda" for the kernel
    sizes, strides and layouts of docs/ops/depthwise_conv2d.md, where neither activation is a GELU;
    everywhere else composed of `depthwise_conv2d` and torch's operators. What is composed, and the
    CUDA kernels for contiguous images, round the normalised input to its dtype.

    Source: BatchNorm (arXiv 1502.03167) and squeeze-and-excitation (arXiv 1709.01507).
    """
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
        and (input_scale is None or isinstance(input_scale, Tensor))
        and (input_shift is None or isinstance(input_shift, Tensor))
    ):
        raise _no_tensor(input, weight, bias, input_scale, input_shift)
    if weight.dim() < 2:
        raise _bad_tensors(input, weight, bias)
    params = None if _is_compiling() else resolve_plain(stride, padding, dilation, activation)
    if params is None:
        kernel_size = (weight.shape[-2], weight.shape[-1])
        params = resolve(kernel_size, stride, padding, dilation, activation)
    pre = code_of(_NAME, "input_activation", input_activation, ACTIVATIONS)
    mode = code_of(_NAME, "sums", sums, SUMS)
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"{_NAME}: input: wanted (C, H, W) or (N, C, H, W), got {tuple(input.shape)}"
        )
    if input_scale is None and input_shift is not None:
        raise RuntimeError(f"{_NAME}: input_shift: wanted together with input_scale, got it alone")
    scale = _per_channel("input_scale", input_scale, input)
    shift = _per_channel("input_shift", input_shift, input)
    return _run(input, weight, bias, scale, shift, params, pre, mode)


def _no_tensor(*values: Any) -> TypeError:
    names = ("input", "weight", "bias", "input_scale", "input_shift")
    argument, value = next(
        (name, value)
        for name, value in zip(names, values, strict=True)
        if not isinstance(value, Tensor) and (value is not None or name in names[:2])
    )
    return TypeError(f"{_NAME}: {argument}: wanted a Tensor, got {type(value).__name__}")


def _per_channel(argument: str, value: Tensor | None, input: Tensor) -> Tensor | None:
    if value is None:
        return None
    wide = fallback.accumulation_dtype(input.dtype)
    return per_channel(_NAME, argument, value, input.shape[-3], input.device, wide)


def _run(input, weight, bias, scale, shift, params: Params, pre: int, mode: int):
    backend = registry.selected
    compiling = _is_compiling()
    tensors = [t for t in (input, weight, bias, scale, shift) if t is not None]
    hooks = scale is not None or pre or mode
    if not can_run(tensors) and not (hooks and fused_cuda.can_run(tensors, weight, params, pre)):
        return _compose(input, weight, bias, scale, shift, params, pre, mode)
    device = input.device.type
    if not compiling and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            input, weight, bias = registration.cast(dtype, input, weight, bias)
            return _run(input, weight, bias, scale, shift, params, pre, mode)
    if input.dim() == 3:
        results = _run(input.unsqueeze(0), weight, bias, scale, shift, params, pre, mode)
        if mode == _CHANNEL:
            return results[0].squeeze(0), *results[1:]
        return tuple(t.squeeze(0) for t in results) if mode else results.squeeze(0)
    operator: Any
    if compiling or type(input) is torch._subclasses.FakeTensor:
        operator = fused_autograd.PUBLIC
    elif torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        operator = fused_autograd.Fused.apply
    else:
        operator = fused_autograd.lean(backend)
    results = operator(input, weight, bias, scale, shift, *params, pre, mode, backend)
    if not mode:
        return results[0]
    return (results[0], results[1], results[2]) if mode == _CHANNEL else (results[0], results[1])


def _compose(input, weight, bias, scale, shift, params, pre, mode):
    if scale is not None or pre:
        affine = fallback.affine(input, scale, shift)
        input = fallback.activate(affine, pre).to(input.dtype)
    output = run(input, weight, bias, params)
    if not mode:
        return output
    wide = output.to(fallback.accumulation_dtype(output.dtype))
    if mode != _CHANNEL:
        return output, wide.sum((-2, -1))
    over = (0, 2, 3) if output.dim() == 4 else (1, 2)
    return output, wide.sum(over), wide.square().sum(over)
