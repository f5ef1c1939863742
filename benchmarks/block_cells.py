"""One block, measured: its contenders built, checked, timed, and set against the roofline."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import effkern

from . import block_training, ceilings
from .block_contenders import Contender, in_layout
from .block_options import Options
from .block_workloads import BlockLayer
from .blocks import Call
from .cells import interleave
from .memory import peaks

Outputs = Sequence[torch.Tensor]
# What a contender raises is a result too.
_ERRORS = (RuntimeError, TypeError, ValueError, NotImplementedError)


def _distance(actual: torch.Tensor, exact: torch.Tensor) -> float:
    return float((actual.double() - exact).norm() / exact.norm())


def _facts(module: torch.nn.Module, input: torch.Tensor) -> tuple[int, int]:
    """FLOPs of convolutions and matrix products; bytes of input, output and weights."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = module(input)
    tensors = [input, output, *module.parameters()]
    return counter.get_total_flops(), sum(t.numel() * t.element_size() for t in tensors)


def _check(
    actual: Outputs, exact: Outputs, bounds: Sequence[float], tolerated: float = 0.0
) -> dict[str, Any]:
    """A row's "failure", or the largest of the errors over their bounds."""
    errors = [_distance(a, e) for a, e in zip(actual, exact, strict=True)]
    for error, bound in zip(errors, bounds, strict=True):
        allowed = max(bound, tolerated)
        if not error <= allowed:
            return {"failure": f"wrong: error {error:.2g} of at most {allowed:.2g}"}
    return {"error_over_bound": max(e / b for e, b in zip(errors, bounds, strict=True))}


def _measure(
    cell: dict[str, Any],
    calls: dict[str, tuple[Contender, Callable[[], tuple[Call, str]]]],
    check: Callable[[Any, float], dict[str, Any]],
    options: Options,
    found: ceilings.Ceilings,
) -> list[dict[str, Any]]:
    """One row per contender, `cell` and its times, of the calls that these functions build."""
    rows, timed = {}, {}
    for name, (contender, build) in calls.items():
        rows[name] = row = cell | {
            "contender": name, "failure": None, "ranked": contender.tolerated == 0,
        }  # fmt: skip
        try:
            with contender.context():
                call, row["layout"] = build()
                row |= check(call(), contender.tolerated)
        except _ERRORS as error:
            row["failure"] = f"{type(error).__name__}: {error}"
        if row["failure"] is None:
            timed[name] = contender.timed([call], contender.context)
    interleave(timed, options.budget, float("inf"), found, rows)
    for name, measurement in timed.items():
        rows[name]["failure"] = measurement.failure
        if measurement.failure is None:
            rows[name] |= measurement.summary()
    return list(rows.values())


def memory(layer: BlockLayer, batch: int, chosen: Sequence[Contender]) -> list[dict[str, Any]]:
    """Rows of the memory table, of the contenders whose memory is this process's."""
    rows = []
    module, input = effkern.fold_batch_norm(layer.build()), layer.input(batch)
    trained = layer.kind in block_training.KINDS
    for contender in chosen:
        if contender.name not in block_training.CONTENDERS:
            continue
        with contender.context(), torch.no_grad():
            call, _ = contender.build(copy.deepcopy(module), input)
            passes = {"fwd": call} | ({"fwd_bwd": block_training.call(call)} if trained else {})
            rows += [
                {"layer": layer.name, "contender": contender.name, "dtype": "float32",
                 "batch": batch, "pass": pass_, **peaks(call, "cpu")}
                for pass_, call in passes.items()
            ]  # fmt: skip
    return rows


def measure(
    layer: BlockLayer,
    batch: int,
    chosen: Sequence[Contender],
    options: Options,
    compiles: bool,
    found: ceilings.Ceilings,
) -> list[dict[str, Any]]:
    """One row per pass and contender; a row with a "failure" holds no times."""
    module, input = layer.build(), layer.input(batch)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(input.double())
        # Twice the error of PyTorch's own, before anything is folded, and a rounding unit.
        bound = 2 * _distance(module(input), exact) + torch.finfo(input.dtype).eps
    folded = effkern.fold_batch_norm(module)
    flops, size = _facts(folded, input)
    cell = {
        "layer": layer.name, "kind": layer.kind, "pass": "fwd", "dtype": "float32",
        "batch": batch, "flops": flops, "bytes": size,
    }  # fmt: skip
    chosen = [c for c in chosen if compiles or c.name != "torch_compile"]
    chosen = [c for c in chosen if c.limit(batch) is None]
    calls = {c.name: (c, partial(c.build, copy.deepcopy(folded), input)) for c in chosen}
    with torch.no_grad():
        rows = _measure(
            cell, calls, lambda y, more: _check((y,), (exact,), (bound,), more), options, found
        )
    if layer.kind in block_training.KINDS:
        rows += _measure_training(cell, module, input, chosen, options, found)
    return rows


def _measure_training(
    cell: dict[str, Any],
    module: torch.nn.Module,
    input: torch.Tensor,
    chosen: Sequence[Contender],
    options: Options,
    found: ceilings.Ceilings,
) -> list[dict[str, Any]]:
    """Forward and backward; both gradients of a product take as many FLOPs as the product."""
    wide = copy.deepcopy(module).double()
    exact = block_training.call(partial(wide, input.double()))()
    eps = torch.finfo(input.dtype).eps
    bounds = [eps] * len(exact)
    # Of PyTorch's own in both layouts: its sums differ.
    for layout in ("contiguous", "channels_last"):
        plain = block_training.call(in_layout(copy.deepcopy(module), input, layout))()
        errors = [_distance(p, e) for p, e in zip(plain, exact, strict=True)]
        bounds = [max(b, 2 * error + eps) for b, error in zip(bounds, errors, strict=True)]

    def build(contender: Contender) -> tuple[Call, str]:
        call, layout = contender.build(copy.deepcopy(module), input)
        return block_training.call(call), layout

    calls = {c.name: (c, partial(build, c)) for c in chosen if c.name in block_training.CONTENDERS}
    cell = cell | {"pass": "fwd_bwd", "flops": 3 * cell["flops"], "bytes": 3 * cell["bytes"]}
    return _measure(cell, calls, lambda ys, more: _check(ys, exact, bounds, more), options, found)
