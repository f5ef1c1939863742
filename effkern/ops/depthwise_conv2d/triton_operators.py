"""torch.ops.effkern.depthwise_conv2d_triton and its kin: the Triton kernels behind the schemas of
the native operators.

The same implementation serves CUDA tensors (backend "triton") and, in a process with
TRITON_INTERPRET=1, CPU tensors (backend "triton_interpreted"). Triton is imported by the first
call. The checks are those of csrc/depthwise_conv2d/depthwise_conv2d_arguments.cpp, in its words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import registry
from ...testing import interpreter_guard
from .arguments import ACTIVATIONS

SUFFIX = "_triton"
_NAMESPACE = "effkern"
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Sizes small enough that no product of the geometry of one axis overflows 64 bits.
_MAX_EXTENT = 1 << 40

# Kept alive: the definitions go when the object does.
_library: torch.library.Library | None = None


class Problem(NamedTuple):
    """A call that has passed the checks; `geometry` are the eight integers of the schemas, with
    strides no larger than the kernel's way."""

    geometry: tuple[int, ...]
    output_shape: tuple[int, int, int, int]


def define(names: tuple[str, ...]) -> None:
    """Defines the operators `names` and their twins with the schemas of the native ones."""
    global _library
    _library = torch.library.Library(_NAMESPACE, "FRAGMENT")
    for name, function in zip(names, (_forward, _backward, _activation_backward), strict=True):
        for prefix in ("", "_"):
            native = getattr(torch.ops.effkern, prefix + name).default
            defined = prefix + name + SUFFIX
            signature = str(native._schema).removeprefix(f"{_NAMESPACE}::{prefix}{name}")
            _library.define(defined + signature, tags=(torch.Tag.pt2_compliant_tag,))
            for key in ("CPU", "CUDA"):
                _library.impl(defined, function, key)


def _fail(name: str, argument: str, wanted: str, got: object) -> RuntimeError:
    return RuntimeError(f"effkern.{name}: {argument}: wanted {wanted}, got {got}")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_same(name: str, argument: str, tensor: Tensor, input: Tensor) -> None:
    if tensor.dtype != input.dtype:
        raise _fail(name, argument, f"{_dtype(input)} as input is", _dtype(tensor))
    if tensor.device != input.device:
        raise _fail(name, argument, f"device {input.device} as input is on", tensor.device)


def _check_axis(
    name: str,
    axis: str,
    size: int,
    kernel: int,
    stride: int,
    before: int,
    after: int,
    dilation: int,
) -> tuple[int, int]:
    """The stride, no larger than it has an effect, and the size of the output."""
    if stride < 1:
        raise _fail(name, "stride", "values >= 1", f"{stride} for {axis}")
    if dilation < 1:
        raise _fail(name, "dilation", "values >= 1", f"{dilation} for {axis}")
    if before < 0 or after < 0:
        raise _fail(name, "padding", "values >= 0", f"{min(before, after)} for {axis}")
    if max(before, after) >= _MAX_EXTENT:
        raise _fail(
            name, "padding", f"values below {_MAX_EXTENT}", f"{max(before, after)} for {axis}"
        )
    if dilation >= _MAX_EXTENT // kernel:
        raise _fail(
            name, "dilation", f"an extent below {_MAX_EXTENT}", f"dilation {dilation} for {axis}"
        )
    extent = dilation * (kernel - 1) + 1
    padded = size + before + after
    if extent > padded:
        raise _fail(
            name,
            "weight",
            f"a kernel that fits into the padded input of {axis} {padded}",
            f"{extent} (with dilation {dilation})",
        )
    return min(stride, padded - extent + 1), (padded - extent) // stride + 1


def _check(
    name: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_output: Tensor | None,
    geometry: tuple[int, ...],
    activation: int,
    backend: int,
) -> Problem:
    if input.dim() != 4:
        raise _fail(name, "input", "(N, C, H, W)", tuple(input.shape))
    if input.dtype not in _DTYPES:
        raise _fail(name, "input", "float64, float32, float16 or bfloat16", _dtype(input))
    _check_same(name, "weight", weight, input)
    batch, channels, height, width = input.shape
    if channels == 0 or height == 0 or width == 0:
        raise _fail(name, "input", "sizes above zero (the batch may be empty)", tuple(input.shape))
    shape = tuple(weight.shape)
    if len(shape) != 4 or shape[1] != 1 or shape[0] % channels or 0 in shape:
        raise _fail(name, "weight", f"(C * M, 1, kH, kW) for C = {channels} input channels", shape)
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w = geometry
    stride_h, out_height = _check_axis(
        name, "height", height, shape[2], stride_h, top, bottom, dilation_h
    )
    stride_w, out_width = _check_axis(
        name, "width", width, shape[3], stride_w, left, right, dilation_w
    )
    output_shape = (batch, shape[0], out_height, out_width)
    if max(batch, 1) * shape[0] * out_height * out_width * input.element_size() >= 2**63:
        raise _fail(
            name,
            "padding",
            "an output of less than 2**63 bytes",
            f"{out_height} x {out_width} pixels",
        )
    if bias is not None:
        _check_same(name, "bias", bias, input)
        if tuple(bias.shape) != (shape[0],):
            raise _fail(name, "bias", f"shape ({shape[0]},)", tuple(bias.shape))
    if not 0 <= activation < len(ACTIVATIONS):
        raise _fail(name, "activation", f"0 to {len(ACTIVATIONS) - 1}", activation)
    if grad_output is not None:
        _check_same(name, "grad_output", grad_output, input)
        if tuple(grad_output.shape) != output_shape:
            raise _fail(
                name,
                "grad_output",
                f"the output's shape {output_shape}",
                tuple(grad_output.shape),
            )
    _check_backend(name, input, backend)
    return Problem(
        (stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w), output_shape
    )


def _check_backend(name: str, input: Tensor, backend: int) -> None:
    own = "triton" if input.is_cuda else "triton_interpreted"
    if not 0 <= backend < len(registry.BACKENDS):
        raise _fail(name, "backend", f"0 to {len(registry.BACKENDS) - 1}", backend)
    if backend not in (registry.BACKENDS["auto"], registry.BACKENDS[own]):
        got = list(registry.BACKENDS)[backend]
        place = f"one that runs Triton kernels on {input.device.type} tensors (auto or {own})"
        raise _fail(name, "backend", place, got)
    reason = registry.unavailable_reason(own)
    if reason is not None:
        raise RuntimeError(
            f"effkern.{name}: backend: wanted one that can run this call, got {own!r}: {reason}"
        )
    if not input.is_cuda:
        # Without it, the interpreter computes other numbers than a GPU.
        interpreter_guard.install()


def _empty(like: Tensor, shape: tuple[int, ...], *deciding: Tensor) -> Tensor:
    """Fresh memory: channels_last if one of `deciding` is, as for torch's convolution."""
    formats = [torch._prims_common.suggest_memory_format(tensor) for tensor in deciding]
    last = torch.channels_last in formats
    return torch.empty(
        shape,
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def _stencil(*arguments: Any, grad_input: bool) -> None:
    from ...triton_kernels.depthwise_conv2d import launch

    launch.stencil(*arguments, grad_input)


def _forward(input: Tensor, weight: Tensor, bias: Tensor | None, *integers: int) -> Tensor:
    name = "depthwise_conv2d"
    *geometry, activation, backend = integers
    problem = _check(name, input, weight, bias, None, tuple(geometry), activation, backend)
    output = _empty(input, problem.output_shape, input, weight)
    if output.numel():
        _stencil(
            *(name, input, weight, bias, None, output, problem.geometry, activation),
            grad_input=False,
        )
    return output


def _activation_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, *integers: int
) -> Tensor:
    name = "depthwise_conv2d_activation_backward"
    *geometry, activation, backend = integers
    problem = _check(name, input, weight, bias, grad_output, tuple(geometry), activation, backend)
    output = _empty(input, problem.output_shape, input, weight)
    if output.numel():
        _stencil(
            *(name, input, weight, bias, grad_output, output, problem.geometry, activation),
            grad_input=False,
        )
    return output


def _backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, *integers: int
) -> tuple[Tensor, Tensor, Tensor]:
    name = "depthwise_conv2d_backward"
    *geometry, need_input, need_weight, need_bias, backend = integers
    problem = _check(name, input, weight, None, grad_output, tuple(geometry), 0, backend)
    # What is not needed is an empty tensor, as from the native operator.
    grad_input = _empty(input, tuple(input.shape), input) if need_input else input.new_empty(0)
    grad_weight = weight.new_empty(tuple(weight.shape) if need_weight else 0)
    grad_bias = weight.new_empty(weight.shape[0] if need_bias else 0)
    if not input.numel():
        return grad_input, grad_weight.zero_(), grad_bias.zero_()
    if need_input:
        _stencil(
            *(name, grad_output, weight, None, None, grad_input, problem.geometry, 0),
            grad_input=True,
        )
    if need_weight or need_bias:
        from ...triton_kernels.depthwise_conv2d import launch

        launch.weight_grad(
            name,
            input,
            grad_output,
            grad_weight if need_weight else None,
            grad_bias if need_bias else None,
            (weight.shape[2], weight.shape[3]),
            problem.geometry,
        )
    return grad_input, grad_weight, grad_bias
