"""What a call of a whole block will run, and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from . import registry
from .functional import convnext_block, fused_mbconv, mbconv
from .ops.convnext_block import cuda_backend as convnext_cuda
from .ops.convnext_block import triton_backend as convnext_triton
from .ops.depthwise_conv2d import triton_inference
from .ops.depthwise_conv2d.arguments import Params, resolve
from .ops.fused_mbconv.dense import dense_kernel
from .ops.mbconv import cuda_backend as mbconv_cuda
from .ops.mbconv import pixels
from .ops.mbconv import triton_backend as mbconv_triton
from .plans import Explanation, Plan

_REASONS = {
    "mbconv": "a few images at a time; bias, activation, gate and residual are in the products' "
    "registers, the sums of squeeze-and-excitation in the depthwise kernel",
    "convnext_block": "LayerNorm in the depthwise kernel; pixels in chunks whose wide activations "
    "stay in the cache",
}
_KERNELS = {
    "mbconv": "pointwise, depthwise_conv2d_fused, pointwise",
    "convnext_block": "depthwise_conv2d_layer_norm, pointwise, pointwise",
}
_GPU = ("cuda", "cuda_emulated", "triton", "triton_interpreted")
# Of the k x k convolution, of the product before it or after it, and of the last product.
_WEIGHTS = {
    "fused_mbconv": ("expand_weight", None, "project_weight"),
    "mbconv": ("depthwise_weight", "expand_weight", "project_weight"),
    "convnext_block": ("depthwise_weight", "fc1_weight", "fc2_weight"),
}
FUNCTIONS: dict[Callable[..., Tensor], str] = {
    fused_mbconv: "fused_mbconv", mbconv: "mbconv", convnext_block: "convnext_block"
}  # fmt: skip


def explain_block(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Explanation:
    """:func:`effkern.explain` of a function in `FUNCTIONS`: the plan of its forward.

    Raises:
        TypeError: the arguments do not fit the call.
        RuntimeError: a backend asked for by name cannot run it.
    """
    op = FUNCTIONS[function]
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    input = given["input"] if given["input"].dim() == 4 else given["input"].unsqueeze(0)
    weights: list[Any] = [given[name] if name else None for name in _WEIGHTS[op]]
    spatial, first, last = weights
    stride = given.get("stride", 1)
    params = resolve(tuple(spatial.shape[-2:]), stride, given["padding"], 1, given["activation"])
    batch, channels, height, width = input.shape
    kernel_h, kernel_w = spatial.shape[2:]
    out_h = (height + params[2] + params[3] - kernel_h) // params[0] + 1
    out_w = (width + params[4] + params[5] - kernel_w) // params[1] + 1
    outputs = spatial.shape[0] if last is None else last.shape[0]
    tensors = [t for t in _flat(given.values()) if isinstance(t, Tensor)]
    macs = out_h * out_w * (spatial.numel() + (0 if last is None else last.numel()))
    if first is not None:
        # In a ConvNeXt block both matrices meet every pixel of the output.
        macs += first.numel() * (height * width if op == "mbconv" else out_h * out_w)
    moved = sum(t.numel() * t.element_size() for t in tensors)
    moved += batch * outputs * out_h * out_w * input.element_size()
    problem = {
        "dtype": str(input.dtype).removeprefix("torch."),
        "device": input.device.type,
        "layout": "contiguous" if input.is_contiguous() else "channels_last",
        **{"batch": batch, "in_channels": channels, "height": height, "width": width},
        "out_channels": outputs,
        "hidden_channels": spatial.shape[0] if first is None else first.shape[0],
        **{"kernel_h": kernel_h, "kernel_w": kernel_w, "stride_h": params[0]},
        **{"stride_w": params[1], "pad_top": params[2], "pad_bottom": params[3]},
        **{"pad_left": params[4], "pad_right": params[5], "dilation_h": 1, "dilation_w": 1},
        **{"has_bias": True, "activation": given["activation"]},
    }
    unknown: dict[str, Any] = dict.fromkeys(field.name for field in fields(Plan))
    choice = _choice(op, given, tensors, params, problem, batch * out_h * out_w)
    plan = Plan(**(unknown | {"bytes": moved, "flops": 2 * batch * macs} | choice))
    return Explanation(op, problem, {"forward": plan})


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += value if isinstance(value, (tuple, list)) else [value]
    return found


def _triton_plan(op: str, given: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    if op == "mbconv":
        operands = [given[name] is not None for name in ("expand_weight", "se", "residual")]
        return mbconv_triton.plan(problem, *operands)
    return convnext_triton.plan(problem, given["grn_weight"] is not None)


def _choice(
    op: str,
    given: dict[str, Any],
    tensors: list[Tensor],
    params: Params,
    problem: dict[str, Any],
    pixel_count: int,
) -> dict[str, Any]:
    """Backend, kernel and reason, for so many pixels of output."""
    backend = registry.current()
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if op == "fused_mbconv" and backend in _GPU and not differentiated:
        reason = f"backend {backend!r} was asked for; a call that its kernel does not take raises"
        return {"backend": backend, "kernel": op, "reason": reason}
    if triton_inference.asked_for(tensors) and triton_inference.takes(tensors[0]):
        return _triton_plan(op, given, problem) | {"backend": backend}
    explained = {"mbconv": mbconv_cuda.explained, "convnext_block": convnext_cuda.explained}.get(op)
    if explained is not None and (kernels := explained(given, tensors, params)) is not None:
        return kernels
    with torch.set_grad_enabled(torch.is_grad_enabled() and op != "convnext_block"):
        fits = pixels.infers_on_cpu(tensors) and given.get("grn_weight") is None
    if tensors[0].dtype == torch.float64 or not fits:
        return {
            "backend": "torch",
            "kernel": "aten::linear, aten::convolution",
            "reason": "composed, with effkern's depthwise convolution: no kernel for this dtype, "
            "device or backend, a gradient, a transform or a response normalisation",
        }
    if op != "fused_mbconv":
        return {"backend": "cpu", "kernel": _KERNELS[op], "reason": _REASONS[op]}
    dense = dense_kernel(given["expand_weight"], params, pixel_count, tensors[0].dtype)
    return {"backend": "cpu", "kernel": dense.name, "reason": dense.reason}
