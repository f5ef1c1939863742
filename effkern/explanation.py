"""What a call will run, and why: plans as objects that print."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from . import _library, registry
from .functional import depthwise_conv2d, depthwise_conv2d_layer_norm
from .nn.depthwise_conv2d import DepthwiseConv2d
from .ops.depthwise_conv2d import _AUTO_DEVICES, _DTYPES, ACTIVATIONS, Params, resolve
from .ops.depthwise_conv2d.triton_plan import plan as triton_plan

_ACTIVATION_NAMES = {code: name for name, code in ACTIVATIONS.items()}
PASSES = ("forward", "grad_input", "grad_weight")
# On the tensors of which device.
_TRITON = {"triton": "cuda", "triton_interpreted": "cpu"}


@dataclass(frozen=True)
class Plan:
    """How one pass of an operator is computed. What is not known is None.

    Attributes:
        backend: "cpu", "cuda", "triton" or "torch" (PyTorch's own convolution).
        kernel: the name of the kernel.
        tile: what one register tile, thread block or program (rows x columns x channels) computes.
        grid: work units (cpu), thread blocks (cuda) or programs (triton).
        shared_memory: bytes for a thread block (cuda).
        scratch: bytes for a thread (cpu).
        workspace: bytes of temporary memory for the whole call.
        bytes: memory traffic that no implementation avoids: each tensor once.
        flops: two for each multiply-add on pixels inside the image.
        reason: why this backend and kernel.
    """

    backend: str
    kernel: str
    tile: str | None
    grid: int | None
    shared_memory: int | None
    scratch: int | None
    workspace: int | None
    bytes: int | None
    flops: int | None
    reason: str

    def floor(self, bandwidth: float, throughput: float) -> float | None:
        """Seconds that no implementation can beat, for ceilings in bytes/s and FLOP/s."""
        if self.bytes is None or self.flops is None:
            return None
        return max(self.bytes / bandwidth, self.flops / throughput)


@dataclass(frozen=True)
class Explanation:
    """The plans of one call; prints as a table.

    Attributes:
        op: the operator.
        problem: its sizes, dtype, layout and device by name.
        plans: a plan for each of "forward", "grad_input", "grad_weight"; with a LayerNorm also for
            "norm_backward".
        ceilings: (bytes/s, FLOP/s) to give floors for, or None.
    """

    op: str
    problem: dict[str, Any]
    plans: dict[str, Plan]
    ceilings: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON; floors in seconds."""
        result = asdict(self)
        if self.ceilings is not None:
            for name, plan in self.plans.items():
                result["plans"][name]["floor"] = plan.floor(*self.ceilings)
        return result

    def _sizes(self) -> str:
        p = self.problem
        shape = (p["batch"], p["in_channels"], p["height"], p["width"])
        pads = [p[f"pad_{side}"] for side in ("top", "bottom", "left", "right")]
        parts = [
            f"input {shape} {p['dtype']} {p['layout']} on {p['device']}",
            f"{p['out_channels']} output channels" if p["out_channels"] != shape[1] else "",
            f"kernel {p['kernel_h']}x{p['kernel_w']}",
            f"stride {p['stride_h']}x{p['stride_w']}",
            f"padding {'/'.join(map(str, pads))} (top/bottom/left/right)",
            f"dilation {p['dilation_h']}x{p['dilation_w']}",
            "bias" if p["has_bias"] else "",
            p["activation"] or "",
        ]
        return ", ".join(part for part in parts if part)

    def __str__(self) -> str:
        plans: dict[str, dict[str, Any]] = self.to_dict()["plans"]
        rows = [("", *plans)]
        for key in next(iter(plans.values())):
            values = [plan[key] for plan in plans.values()]
            if key != "reason" and any(value not in (None, "") for value in values):
                rows.append((key.replace("_", " "), *(_text(key, value) for value in values)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        reasons: dict[str, list[str]] = {}
        for name, plan in plans.items():
            reasons.setdefault(plan["reason"], []).append(name)
        return "\n".join(
            [
                f"{self.op}: {self._sizes()}",
                *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
                *(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()),
            ]
        )


def _text(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "floor":
        return f"{value * 1e6:.1f} us"
    return f"{value:,}" if isinstance(value, int) else str(value)


def explain(module_or_function: nn.Module | Callable[..., Tensor], *args: Any, **kwargs: Any):
    """What calling `module_or_function` with these arguments would run now, without running it.

    Args:
        module_or_function: :func:`effkern.functional.depthwise_conv2d` or
            :func:`~effkern.functional.depthwise_conv2d_layer_norm`, a
            :class:`effkern.DepthwiseConv2d`, or a depthwise ``torch.nn.Conv2d``, which is explained
            as the layer that ``effkern.convert`` would make of it.
        *args, **kwargs: the arguments of the call.

    Returns:
        :class:`Explanation`, with a :class:`Plan` for each pass.

    Raises:
        TypeError: something else is to be explained, or the arguments do not fit the call.
        RuntimeError: a backend asked for by name cannot run here, or the native library has no
            planner because it is not built.
    """
    norm = module_or_function is depthwise_conv2d_layer_norm
    if norm:
        bound = inspect.signature(depthwise_conv2d_layer_norm).bind(*args, **kwargs)
        input, weight, bias = list(bound.arguments.values())[:3]
        params = resolve(tuple(weight.shape[-2:]), 1, bound.arguments["padding"])
    elif module_or_function is depthwise_conv2d:
        bound = inspect.signature(depthwise_conv2d).bind(*args, **kwargs)
        bound.apply_defaults()
        input, weight, bias, *geometry = bound.arguments.values()
        params = resolve(tuple(weight.shape[-2:]), *geometry)
    elif isinstance(module_or_function, nn.Conv2d):
        conv = DepthwiseConv2d.from_conv(module_or_function)
        (input,) = inspect.signature(conv.forward).bind(*args, **kwargs).arguments.values()
        input, params = conv._prepare(input, conv.weight)
        weight, bias = conv.weight, conv.bias
    else:
        raise TypeError(
            "effkern.explain: module_or_function: wanted effkern.functional.depthwise_conv2d, "
            "effkern.functional.depthwise_conv2d_layer_norm or a "
            f"torch.nn.Conv2d with groups == in_channels, got {module_or_function!r}"
        )
    device, dtype = input.device.type, input.dtype
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if input.dim() == 3:
        input = input.unsqueeze(0)
    explanation = explain_sizes(
        tuple(input.shape),
        tuple(weight.shape),
        params,
        dtype=dtype,
        layout=_layout(input),
        device=device,
        has_bias=bias is not None,
        backend=registry.current(),
    )
    return _with_norm(explanation) if norm else explanation


def _with_norm(explanation: Explanation) -> Explanation:
    """The plans of a convolution, as those of depthwise_conv2d_layer_norm."""
    plans = explanation.plans
    forward = plans["forward"]
    if forward.backend == "cpu":
        from . import _C

        problem = explanation.problem | {"activation": 0}
        native = _C.plan_depthwise_conv2d_layer_norm(_C.DepthwiseConv2dProblem(**problem))
        forward = Plan(**{field.name: getattr(native, field.name) for field in fields(Plan)})
        backward = replace(forward, reason=f"computes the convolution again, {forward.reason}")
    else:
        forward = replace(
            forward,
            kernel=f"{forward.kernel}, aten::native_layer_norm",
            reason=f"composed, the fused kernel is for CPU only; convolution: {forward.reason}",
        )
        backward = replace(
            forward,
            kernel="aten::native_layer_norm_backward",
            reason="composed, the fused kernel is for CPU only",
        )
    norms = {"forward": forward, "norm_backward": backward}
    rest = {name: plan for name, plan in plans.items() if name != "forward"}
    return replace(explanation, op="depthwise_conv2d_layer_norm", plans=norms | rest)


def _layout(input: Tensor) -> str:
    if input.is_contiguous():
        return "contiguous"
    if input.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "strided"


def explain_sizes(
    input: tuple[int, ...],
    weight: tuple[int, ...],
    params: Params,
    *,
    dtype: torch.dtype,
    layout: str,
    device: str,
    has_bias: bool,
    backend: str,
    passes: Iterable[str] = PASSES,
    ceilings: tuple[float, float] | None = None,
) -> Explanation:
    """:func:`explain` without tensors: `input` is (N, C, H, W), `weight` (C * M, 1, kH, kW)."""
    stride, (top, bottom, left, right), dilation = params[0:2], params[2:6], params[6:8]
    names = [f"{name}_{axis}" for name in ("kernel", "stride", "dilation") for axis in "hw"]
    problem = {
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "layout": layout,
        **dict(zip(("batch", "in_channels", "height", "width"), input, strict=True)),
        "out_channels": weight[0],
        **dict(zip(names, (*weight[2:], *stride, *dilation), strict=True)),
        **{"pad_top": top, "pad_bottom": bottom, "pad_left": left, "pad_right": right},
        "has_bias": has_bias,
        "activation": _ACTIVATION_NAMES[params[8]],
    }
    reason = _torch_reason(dtype, device, backend)
    native = {**problem, "activation": params[8]}
    if backend in _TRITON and device != _TRITON[backend]:
        raise RuntimeError(
            f"effkern.explain: backend: wanted one that runs on {device} tensors, got {backend!r}"
        )
    plans = {name: _plan({"pass_": name, **native}, backend, reason) for name in passes}
    return Explanation("depthwise_conv2d", problem, plans, ceilings)


def _torch_reason(dtype: torch.dtype, device: str, backend: str) -> str | None:
    """Why the call takes torch before a planner is asked, or None."""
    if backend == "torch":
        return "backend 'torch' was asked for"
    if backend == "auto" and not _library.available():
        return str(_library.load_error())
    if dtype not in _DTYPES or device not in ("cpu", "cuda"):
        return f"effkern has no kernel for {dtype} on {device}"
    if backend == "auto" and device not in _AUTO_DEVICES:
        return f"backend 'auto' takes torch on {device}; ask for backend {device!r} by name"
    return None


def _plan(problem: dict[str, Any], backend: str, torch_reason: str | None) -> Plan:
    unknown: dict[str, Any] = dict.fromkeys(field.name for field in fields(Plan))
    taken_by_torch = {"backend": "torch", "kernel": "aten::convolution", "reason": torch_reason}
    emulated = backend == "cuda_emulated"
    if emulated:
        # The kernels of cuda, planned for the device that is emulated.
        problem, backend = problem | {"device": "cuda"}, "cuda"
    try:
        from . import _C

        native_problem = _C.DepthwiseConv2dProblem(**problem)
    except (ImportError, ValueError) as error:
        # Not built, or a dtype or device that only torch has.
        if torch_reason is None:
            raise RuntimeError(f"effkern.explain: no plan: {error}") from error
        return Plan(**(unknown | taken_by_torch))
    if torch_reason is not None:
        work = {"bytes": native_problem.bytes, "flops": native_problem.flops}
        return Plan(**(unknown | taken_by_torch | work))
    if backend in _TRITON:
        work = {"bytes": native_problem.bytes, "flops": native_problem.flops}
        return Plan(**unknown | work | triton_plan(problem) | {"backend": backend})
    native = _C.plan_depthwise_conv2d(native_problem, backend=backend)
    plan = {name: getattr(native, name) for name in unknown}
    return Plan(**(plan | {"backend": "cuda_emulated"} if emulated else plan))
