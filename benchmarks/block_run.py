"""The benchmark of whole blocks: every distinct block of the models, all contenders, in one run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

import effkern

from . import allocator, block_training, ceilings, machine
from .block_contenders import Contender, contenders, in_layout
from .block_options import Options
from .block_workloads import MODELS, BlockLayer
from .blocks import Call
from .cells import add_rates, interleave
from .contenders import LABELS, missing
from .memory import peaks
from .micro import UNITS

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


def _check(actual: Outputs, exact: Outputs, bounds: Sequence[float]) -> str | None:
    for a, e, bound in zip(actual, exact, bounds, strict=True):
        error = _distance(a, e)
        if not error <= bound:
            return f"wrong: error {error:.2g} of at most {bound:.2g}"
    return None


def _measure(
    cell: dict[str, Any],
    calls: dict[str, tuple[Contender, Callable[[], tuple[Call, str]]]],
    check: Callable[[Any], str | None],
    options: Options,
    found: ceilings.Ceilings,
) -> list[dict[str, Any]]:
    """One row per contender, `cell` and its times, of the calls that these functions build."""
    rows, timed = {}, {}
    for name, (contender, build) in calls.items():
        rows[name] = row = cell | {"contender": name, "failure": None}
        try:
            with contender.context():
                call, row["layout"] = build()
                row["failure"] = check(call())
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


def _memory(layer: BlockLayer, batch: int, chosen: Sequence[Contender]) -> list[dict[str, Any]]:
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
    calls = {c.name: (c, partial(c.build, copy.deepcopy(folded), input)) for c in chosen}
    with torch.no_grad():
        check = partial(_check_output, exact=exact, bound=bound)
        rows = _measure(cell, calls, check, options, found)
    if layer.kind in block_training.KINDS:
        rows += _measure_training(cell, module, input, chosen, options, found)
    return rows


def _check_output(actual: torch.Tensor, exact: torch.Tensor, bound: float) -> str | None:
    return _check((actual,), (exact,), (bound,))


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
    return _measure(cell, calls, partial(_check, exact=exact, bounds=bounds), options, found)


def run(options: Options, console: Console) -> dict[str, Any]:
    """Measures and returns the results as they are written to JSON; progress goes to `console`."""
    started = machine.Run()
    absent = missing(options.peers, "cpu")
    chosen = contenders([name for name in options.peers if name not in absent])
    kept = allocator.keep_freed_blocks()
    load, layers = [machine.load_average()], options.layers()
    found = ceilings.measure("cpu")
    sample = {layer.kind: layer for layer in layers}
    cells: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    with ExitStack() as stack:
        for contender in chosen:
            stack.callback(contender.close)
        work = [(layer, batch) for batch in options.batches for layer in layers]
        for layer, batch in track(work, "blocks", console=console):
            compiles = options.full or sample[layer.kind] is layer
            cells += measure(layer, batch, chosen, options, compiles, found)
        # Of each kind, the block with the largest image.
        largest = {layer.kind: layer for layer in sorted(layers, key=lambda x: math.prod(x.shape))}
        for layer in largest.values():
            memory += _memory(layer, options.batches[0], chosen)
    found = found.best(ceilings.measure("cpu"))
    for row in cells:
        add_rates(row, found)
        if row["failure"]:
            console.print(f"[red]refused: {row['layer']}, {row['contender']}: {row['failure']}")
    load.append(machine.load_average())
    return {
        **started.header("blocks"),
        "units": UNITS | {"flops": "of convolutions and matrix products, two per multiply-add"},
        "scope": "quick" if options.quick else "full" if options.full else "default",
        "covers_default": set(MODELS) <= set(options.models) and not options.quick,
        "failed": any(row["failure"] for row in cells),
        "load_average": load,
        "options": {"models": options.models, "batches": options.batches, "cold": False},
        "machine": machine.facts("cpu"),
        "slug": machine.slug("cpu"),
        "ceilings": found.to_json(),
        "contenders": {contender.name: LABELS[contender.name] for contender in chosen},
        "missing": absent,
        "limits": {},
        "allocator_keeps_blocks": kept,
        "layers": {layer.name: uses for layer, uses in layers.items()},
        "cells": cells,
        "overhead": [],
        "memory": memory,
    }
