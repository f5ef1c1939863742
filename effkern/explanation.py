"""What a call will run, and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from . import _library, prediction, registry
from .block_explanation import FUNCTIONS as BLOCKS
from .block_explanation import explain_block
from .functional import depthwise_conv2d, depthwise_conv2d_fused, depthwise_conv2d_layer_norm
from .nn.depthwise_conv2d import DepthwiseConv2d
from .ops.depthwise_conv2d import _AUTO_DEVICES, _DTYPES, ACTIVATIONS, Params, fused_cuda, resolve
from .ops.depthwise_conv2d.cuda_plan import plan as cuda_plan
from .ops.depthwise_conv2d.triton_plan import plan as triton_plan
from .ops.depthwise_conv2d_layer_norm.cuda_backend import explained as cuda_norm_plan
from .ops.depthwise_conv2d_layer_norm.triton_backend import plan as norm_plan
from .plans import Explanation, Plan

_ACTIVATION_NAMES = {code: name for name, code in ACTIVATIONS.items()}
PASSES = ("forward", "grad_input", "grad_weight")
# On the tensors of which device.
_TRITON = {"triton": "cuda", "triton_interpreted": "cpu"}


def explain(module_or_function: nn.Module | Callable[..., Tensor], *args: Any, **kwargs: Any):
    """What calling `module_or_function` with these arguments would run now, without running it.

    Args:
        module_or_function: a function of :mod:`effkern.functional`, a
            :class:`effkern.DepthwiseConv2d`, or a depthwise ``torch.nn.Conv2d``, which is explained
            as the layer that ``effkern.convert`` would make of it.
        *args, **kwargs: the arguments of the call.

    Returns:
        :class:`Explanation`, with a :class:`Plan` for each pass; of a whole block for the forward.

    Raises:
        TypeError: something else is to be explained, or the arguments do not fit the call.
        RuntimeError: a backend asked for by name cannot run here, or the native library has no
            planner because it is not built.
    """
    if any(module_or_function is function for function in BLOCKS):
        return explain_block(module_or_function, *args, **kwargs)
    norm = module_or_function is depthwise_conv2d_layer_norm
    if norm:
        bound = inspect.signature(depthwise_conv2d_layer_norm).bind(*args, **kwargs)
        input, weight, bias = list(bound.arguments.values())[:3]
        params = resolve(tuple(weight.shape[-2:]), 1, bound.arguments["padding"])
    elif module_or_function is depthwise_conv2d_fused:
        bound = inspect.signature(depthwise_conv2d_fused).bind(*args, **kwargs)
        bound.apply_defaults()
        input, weight, bias, stride, padding, dilation, activation, *_ = bound.arguments.values()
        params = resolve(tuple(weight.shape[-2:]), stride, padding, dilation, activation)
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
            "effkern.explain: module_or_function: wanted a function of effkern.functional or a "
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
    if module_or_function is depthwise_conv2d_fused:
        return _with_hooks(explanation, bound.arguments, params)
    return _with_norm(explanation) if norm else explanation


def _with_hooks(
    explanation: Explanation, arguments: Mapping[str, Any], params: Params
) -> Explanation:
    """The plans of a convolution, as those of depthwise_conv2d_fused."""
    plans = explanation.plans
    forward = plans["forward"]
    pre, scale = arguments["input_activation"], arguments["input_scale"]
    hooks = {"has_prologue": bool(pre) or scale is not None, "sums": arguments["sums"] or "none"}
    if hooks == {"has_prologue": False, "sums": "none"}:
        return replace(explanation, op="depthwise_conv2d_fused")
    tensors = ("input", "weight", "bias", "input_scale", "input_shift")
    given = [arguments[name] for name in tensors if arguments[name] is not None]
    if forward.backend in ("cpu", "cuda", "cuda_emulated"):
        from . import _C

        problem = explanation.problem | {"activation": params[8]} | hooks
        backend = "cpu"
        if forward.backend != "cpu":
            problem, backend = problem | {"device": "cuda"}, "cuda"
        native = _C.plan_depthwise_conv2d(_C.DepthwiseConv2dProblem(**problem), backend=backend)
        values = {
            field.name: getattr(native, field.name, None)
            for field in fields(Plan)
            if backend == "cpu" or field.name in ("bytes", "flops", "kernel", "reason")
        }
        unknown: dict[str, Any] = dict.fromkeys(field.name for field in fields(Plan))
        plan = Plan(**(unknown | values | {"backend": forward.backend}))
        fused = backend == "cpu" or fused_cuda.can_run(
            given, arguments["weight"], params, ACTIVATIONS[pre]
        )
        if fused:
            forward = plan
        else:
            reason = "composed: the kernels with hooks do not take this call"
            if native.reason.startswith("composed"):
                reason = native.reason
            forward = replace(forward, reason=f"{reason}; numbers are the convolution's")
    else:
        forward = replace(forward, reason=f"composed; convolution: {forward.reason}")
    return replace(explanation, op="depthwise_conv2d_fused", plans=plans | {"forward": forward})


def _with_norm(explanation: Explanation) -> Explanation:
    """The plans of a convolution, as those of depthwise_conv2d_layer_norm."""
    plans = explanation.plans
    forward = plans["forward"]
    if forward.backend == "cpu":
        from . import _C

        problem = explanation.problem | {"activation": 0}
        native = _C.plan_depthwise_conv2d_layer_norm(_C.DepthwiseConv2dProblem(**problem))
        names = [field.name for field in fields(Plan) if hasattr(native, field.name)]
        forward = Plan(**{name: getattr(native, name) for name in names})
        backward = replace(forward, reason=f"computes the convolution again, {forward.reason}")
    else:
        reason = "composed, there is no fused kernel for this"
        backward = replace(forward, kernel="aten::native_layer_norm_backward", reason=reason)
        fused = norm_plan(explanation.problem) if forward.backend in _TRITON else None
        if forward.backend in ("cuda", "cuda_emulated"):
            fused = cuda_norm_plan(explanation.problem)
            if "kernel" not in fused:
                reason, fused = fused["reason"], None
        forward = replace(
            forward,
            **fused
            or {
                "kernel": f"{forward.kernel}, aten::native_layer_norm",
                "reason": f"{reason}; convolution: {forward.reason}",
            },
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
    work = {"bytes": native_problem.bytes, "flops": native_problem.flops}
    if torch_reason is not None:
        return Plan(**(unknown | taken_by_torch | work))
    if backend in _TRITON:
        plan = unknown | work | triton_plan(problem) | {"backend": backend}
        return Plan(**(plan | _predicted("triton", problem, native_problem, plan["kernel"])))
    native = _C.plan_depthwise_conv2d(native_problem, backend=backend)
    plan = unknown | {name: getattr(native, name) for name in unknown if hasattr(native, name)}
    if native.backend == "cuda" and native.kernel != "empty":
        plan |= cuda_plan(problem, _outputs(native_problem), emulated)
        plan |= _predicted("cuda", problem, native_problem, plan["code"])
    return Plan(**(plan | {"backend": "cuda_emulated"} if emulated else plan))


def _outputs(problem: Any) -> int:
    """Pixels and channels of the result, and of the output for a weight gradient."""
    if problem.pass_ == "grad_input":
        return problem.batch * problem.in_channels * problem.height * problem.width
    return problem.batch * problem.out_channels * problem.out_h * problem.out_w


def _predicted(
    backend: str, problem: dict[str, Any], native: Any, code: str | None
) -> dict[str, Any]:
    """What is known of a GPU kernel's time: nothing where no similar layer was counted."""
    costs = prediction.known_costs(backend, problem, code)
    if costs is None or problem["batch"] == 0:
        return {}
    found, dram = prediction.predict_call(
        costs, _outputs(native), native.bytes, problem["batch"], prediction.H200
    )
    return {
        "code": costs.code if backend == "cuda" else None,
        "dram_bytes": round(dram),
        "instructions_per_output": costs.instructions,
        "counted_for": "x".join(map(str, costs.layer)),
        "predicted": found.time,
        "predicted_for": prediction.H200.name,
    }
