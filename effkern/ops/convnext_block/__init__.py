"""convnext_block: the public function."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from ... import _library
from ..depthwise_conv2d import fallback
from ..depthwise_conv2d.arguments import resolve_for
from ..depthwise_conv2d.cpu_operators import can_run
from ..depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm
from . import cuda_backend, response_norm, triton_backend

if _library.available():
    from ..depthwise_conv2d import registration
    from . import autograd

_NAME = "effkern.convnext_block"
_SAVE = ("minimal", "all")


def convnext_block(
    input: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    gamma: Tensor | None = None,
    *,
    eps: float = 1e-6,
    padding: int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 3,
    activation: str | None = "gelu",
    grn_weight: Tensor | None = None,
    grn_bias: Tensor | None = None,
    sample_scale: Tensor | None = None,
    save: str = "minimal",
) -> Tensor:
    r"""The block of ConvNeXt and, with `grn_weight` and `grn_bias`, of ConvNeXt V2.

    Computes ``input + sample_scale * gamma * fc2(grn(activation(fc1(n))))`` for ``n =
    depthwise_conv2d_layer_norm(input, ...)``, fc1 and fc2 per pixel. On CPU the pixels pass through
    the matrix products in chunks whose 4C activations stay in the cache. With backend "triton", in
    float32, float16 or bfloat16 and without gradients, fc1 and fc2 are one kernel up to 256
    channels, else two, with everything around them.

    Args:
        input: (N, C, H, W) or (C, H, W); float64, float32, float16 or bfloat16.
        depthwise_weight, depthwise_bias, norm_weight, norm_bias, eps, padding: as for
            :func:`depthwise_conv2d_layer_norm`; the convolution keeps C, H and W.
        fc1_weight, fc1_bias: (D, C) and (D,) or None; D is 4C in the paper.
        fc2_weight, fc2_bias: (C, D) and (C,) or None.
        gamma: layer scale, (C,) or None.
        activation: as for :func:`depthwise_conv2d`.
        grn_weight, grn_bias: global response normalisation after the activation, (D,) both, or
            None.
        sample_scale: (N,), the factors of stochastic depth, or None; not differentiated on CPU
            unless it requires a gradient.
        save: what the backward finds of the activations: "all", or "minimal", which computes them
            again from the input and one mean and standard deviation per pixel. Inside torch.compile
            the compiler decides.

    Returns:
        Of the shape and dtype of `input`, channels_last in memory, as timm's and torchvision's
        blocks give it.

    Raises:
        RuntimeError, TypeError, ValueError: shapes, dtypes or devices that do not go together, only
            one of grn_weight and grn_bias, an unknown activation or `save`.

    Differentiable to any order in all tensors. Under autocast everything is computed as the
    operators that it is made of are.

    Source: ConvNeXt (arXiv 2201.03545), ConvNeXt V2 (arXiv 2301.00808).
    """
    tensors = (
        input, depthwise_weight, depthwise_bias, norm_weight, norm_bias, fc1_weight, fc1_bias,
        fc2_weight, fc2_bias, gamma, grn_weight, grn_bias, sample_scale,
    )  # fmt: skip
    _check(tensors)
    if save not in _SAVE:
        raise ValueError(f"{_NAME}: save: wanted 'minimal' or 'all', got {save!r}")
    pads = resolve_for(_NAME, depthwise_weight, 1, padding, 1, activation)
    _check_size(input, depthwise_weight, pads[2:6])
    if input.dim() == 3:
        if sample_scale is not None:
            raise RuntimeError(f"{_NAME}: sample_scale: wanted None for an unbatched input")
        batched = (input.unsqueeze(0), *tensors[1:])
        return _run(batched, eps, pads[2:6], pads[8], save).squeeze(0)
    return _run(tensors, eps, pads[2:6], pads[8], save)


_NAMES = (
    "input", "depthwise_weight", "depthwise_bias", "norm_weight", "norm_bias", "fc1_weight",
    "fc1_bias", "fc2_weight", "fc2_bias", "gamma", "grn_weight", "grn_bias", "sample_scale",
)  # fmt: skip
_REQUIRED = ("input", "depthwise_weight", "fc1_weight", "fc2_weight")


def _check(tensors: tuple[Any, ...]) -> None:
    named = dict(zip(_NAMES, tensors, strict=True))
    for name, value in named.items():
        if not isinstance(value, Tensor) and (value is not None or name in _REQUIRED):
            wanted = "a Tensor" if name in _REQUIRED else "a Tensor or None"
            raise TypeError(f"{_NAME}: {name}: wanted {wanted}, got {type(value).__name__}")
    input, fc1_weight = named["input"], named["fc1_weight"]
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"{_NAME}: input: wanted (C, H, W) or (N, C, H, W), got {tuple(input.shape)}"
        )
    channels, hidden = input.shape[-3], fc1_weight.shape[0] if fc1_weight.dim() else 0
    shapes = {
        "depthwise_bias": (channels,),
        "norm_weight": (channels,),
        "norm_bias": (channels,),
        "fc1_weight": (hidden, channels),
        "fc1_bias": (hidden,),
        "fc2_weight": (channels, hidden),
        "fc2_bias": (channels,),
        "gamma": (channels,),
        "grn_weight": (hidden,),
        "grn_bias": (hidden,),
        "sample_scale": (input.shape[0],) if input.dim() == 4 else None,
    }
    for name, tensor in named.items():
        if tensor is None:
            continue
        shape = shapes.get(name)
        if shape is not None and tuple(tensor.shape) != shape:
            raise RuntimeError(f"{_NAME}: {name}: wanted shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != input.device:
            raise RuntimeError(
                f"{_NAME}: {name}: wanted device {input.device} as input is on, got {tensor.device}"
            )
        mixed = torch.is_autocast_enabled(input.device.type) or name.startswith("norm")
        if tensor.dtype != input.dtype and not mixed:
            raise RuntimeError(
                f"{_NAME}: {name}: wanted {input.dtype} as input is, got {tensor.dtype}"
            )
    if (named["grn_weight"] is None) != (named["grn_bias"] is None):
        alone = "grn_bias" if named["grn_weight"] is None else "grn_weight"
        raise RuntimeError(f"{_NAME}: {alone}: wanted the other one of the two as well")


def _check_size(input: Tensor, weight: Tensor, pads: tuple[int, ...]) -> None:
    channels = input.shape[-3]
    if weight.dim() != 4 or tuple(weight.shape[:2]) != (channels, 1):
        raise RuntimeError(
            f"{_NAME}: depthwise_weight: wanted ({channels}, 1, kH, kW), got {tuple(weight.shape)}"
        )
    for axis, kernel in enumerate(weight.shape[2:]):
        if pads[2 * axis] + pads[2 * axis + 1] != kernel - 1:
            raise RuntimeError(
                f"{_NAME}: padding: wanted one that keeps the image's size, {kernel - 1} in all "
                f"for {kernel} taps, got {pads[2 * axis]} and {pads[2 * axis + 1]}"
            )


def _run(tensors: tuple[Any, ...], eps: float, pads, activation: int, save: str) -> Tensor:
    present = [t for t in tensors if t is not None]
    grn_weight, sample_scale = tensors[10], tensors[12]
    fits = (
        not torch.compiler.is_compiling()
        and can_run(present)
        and grn_weight is None
        and not (sample_scale is not None and sample_scale.requires_grad)
        and not any(isinstance(t, torch._subclasses.FakeTensor) for t in present)
    )
    if not fits:
        result = triton_backend.forward(_NAME, tensors, eps, pads, activation)
        if result is None:
            result = cuda_backend.run(tensors, eps, pads, activation)
        if result is not None:
            return result
        if grn_weight is None or save == "all" or torch.compiler.is_compiling():
            return compose(tensors, eps, pads, activation)
        return torch.utils.checkpoint.checkpoint(
            compose, tensors, eps, pads, activation, use_reentrant=False, preserve_rng_state=False
        )
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        cast = list(registration.cast(dtype, *tensors))
        # LayerNorm keeps its own; the sum with the input is in the wider type.
        cast[3:5] = tensors[3:5]
        with torch.autocast("cpu", enabled=False):
            return _run(tuple(cast), eps, pads, activation, save).to(tensors[0].dtype)
    wide = fallback.accumulation_dtype(tensors[0].dtype)
    norm = [None if t is None else t.to(wide) for t in tensors[3:5]]
    tensors = (*tensors[:3], *norm, *tensors[5:10], sample_scale)
    if torch.is_grad_enabled() and any(t.requires_grad for t in present):
        return autograd.Block.apply(*tensors, eps, pads, activation, save == "all")
    return autograd.forward(tensors, eps, pads, activation, None).output


def compose(tensors: tuple[Any, ...], eps: float, pads, activation: int) -> Tensor:
    """The same of depthwise_conv2d_layer_norm and torch's operators."""
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, grn_weight, grn_bias, scale = tensors
    padding = (tuple(pads[:2]), tuple(pads[2:]))
    n = depthwise_conv2d_layer_norm(x, w, b, nw, nb, eps, padding=padding)
    a = fallback.activate(torch.nn.functional.linear(n.permute(0, 2, 3, 1), w1, b1), activation)
    if grn_weight is not None:
        norm = response_norm.relative(a.norm(p=2, dim=(1, 2), keepdim=True))
        a = a + torch.addcmul(grn_bias, grn_weight, a * norm)
    o = torch.nn.functional.linear(a, w2, b2).permute(0, 3, 1, 2)
    if gamma is not None:
        o = o * gamma[:, None, None]
    if scale is not None:
        o = o * scale[:, None, None, None]
    return (x + o).contiguous(memory_format=torch.channels_last)
