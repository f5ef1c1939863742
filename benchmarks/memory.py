"""Peak memory of forward + backward, through autograd, in a pass that is not timed.

Two figures, both beyond what is held before the call. *Allocated* is the peak of the sum of torch's
own allocations. *Resident* (CPU, Linux) also counts what libraries take behind torch's back, such
as a convolution's scratch, in pages touched; the heap is trimmed first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

import effkern
from effkern.testing.memory import peak_memory

from .contenders import Contender
from .problem import Problem, Tensors, random_tensors
from .workloads import Layer

# The layers with the largest images, where memory matters.
DEFAULT_LAYERS = 6


def _training_step(contender: Contender, problem: Problem, tensors: Tensors) -> Callable[[], Any]:
    layer = problem.layer
    stride, padding = (layer.stride_h, layer.stride_w), (layer.pad_top, layer.pad_left)
    dilation = (layer.dilation_h, layer.dilation_w)
    leaves = [tensors.input, tensors.weight] + ([] if tensors.bias is None else [tensors.bias])
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> tuple[torch.Tensor, ...]:
        x, w, b = tensors.input, tensors.weight, tensors.bias
        if contender.backend:
            y = effkern.functional.depthwise_conv2d(x, w, b, stride, padding, dilation)
        else:
            y = F.conv2d(x, w, b, stride, padding, dilation, layer.channels)
        return torch.autograd.grad(y, leaves, tensors.grad_output)

    return step


def _allocated_cpu(step: Callable[[], Any]) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        step()
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _allocated_cuda(step: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _resident(step: Callable[[], Any]) -> int | None:
    try:
        # Freed heap that is still resident would hide what a call takes.
        ctypes.CDLL(None).malloc_trim(0)
        return peak_memory(step)
    except (OSError, AttributeError, RuntimeError):
        # Not glibc, or no /proc.
        return None


def peaks(step: Callable[[], Any], device: str) -> dict[str, int | None]:
    """Of a call, after one that is not counted; bytes."""
    step()
    allocated = (_allocated_cuda if device == "cuda" else _allocated_cpu)(step)
    resident = _resident(step) if device == "cpu" else None
    return {"allocated_peak_bytes": allocated, "resident_peak_bytes": resident}


def measure(
    contender: Contender, layer: Layer, dtype: str, batch: int, device: str
) -> dict[str, Any]:
    """One row of the memory table; bytes. The operands are not counted, the results are."""
    problem = Problem(layer, "fwd", dtype, batch, device)
    tensors = random_tensors(problem).to(contender.layout)
    step = _training_step(contender, problem, tensors)
    with contender.context():
        found = peaks(step, device)
    return {
        "layer": layer.name,
        "contender": contender.name,
        "dtype": dtype,
        "batch": batch,
        "operand_bytes": replace(problem, pass_="wgrad").bytes,
        **found,
    }
