"""What a call costs beside its arithmetic: host time on a tensor of 128 numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
import torch.nn.functional as F

import effkern

from .contenders import forced_backend
from .problem import LAYOUTS

SHAPE, KERNEL = (1, 8, 4, 4), 3
MODES = ("no_grad", "grad_forward", "grad_forward_backward")


def _callables(layout: str, device: str) -> dict[str, Callable[..., Any]]:
    """Contender -> its function of the input."""
    channels = SHAPE[1]
    theirs = torch.nn.Conv2d(channels, channels, KERNEL, padding=1, groups=channels, device=device)
    # The keyword is documented, but missing from the method's type.
    theirs = theirs.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    ours = effkern.DepthwiseConv2d.from_conv(theirs)
    weight, bias = theirs.weight, theirs.bias
    function = effkern.functional.depthwise_conv2d
    return {
        "F.conv2d": lambda x: F.conv2d(x, weight, bias, 1, 1, 1, channels),
        "effkern.functional": lambda x: function(x, weight, bias, 1, 1),
        "nn.Conv2d": theirs,
        "effkern.DepthwiseConv2d": ours,
    }


def _forward_backward(
    function: Callable[..., Any], operand: torch.Tensor, grad: torch.Tensor
) -> None:
    function(operand).backward(grad)


def _cases(device: str) -> Iterator[tuple[dict[str, str], Callable[[], Any], bool]]:
    for layout, memory_format in LAYOUTS.items():
        x = torch.randn(SHAPE, device=device).to(memory_format=memory_format)
        grad = torch.randn(SHAPE, device=device).to(memory_format=memory_format)
        for name, function in _callables(layout, device).items():
            for mode in MODES:
                needs_grad = mode != "no_grad"
                operand = x.clone(memory_format=memory_format).requires_grad_(needs_grad)

                call = partial(function, operand)
                if mode == "grad_forward_backward":
                    call = partial(_forward_backward, function, operand, grad)
                yield {"contender": name, "layout": layout, "mode": mode}, call, needs_grad


def measure(
    device: str, rounds: int = 15, calls: int = 100, backend: str | None = None
) -> list[dict[str, Any]]:
    """Rows with the host time of a call in microseconds, median over interleaved rounds.

    Each round times `calls` calls together. On CUDA the device is idle before and waited for after
    the clock has stopped, so that only the host's work counts.

    Args:
        backend: effkern's; by default the device's own.
    """
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    cases: list[tuple[dict[str, str], Callable[[], Any], bool, list[float]]]
    cases = [(row, call, needs_grad, []) for row, call, needs_grad in _cases(device)]
    with effkern.backend(backend or forced_backend(device)):
        for _ in range(rounds):
            for _, call, needs_grad, times in cases:
                sleep(0.001)
                with nullcontext() if needs_grad else torch.no_grad():
                    for _ in range(10):
                        call()
                    synchronize()
                    start = perf_counter()
                    for _ in range(calls):
                        call()
                    times.append((perf_counter() - start) / calls)
                    synchronize()
    return [
        {**row, "median_us": median(times) * 1e6, "min_us": min(times) * 1e6, "rounds": rounds}
        for row, _, _, times in cases
    ]
