"""The benchmark of whole blocks: every distinct block of the models, all contenders, in one run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

import effkern

from . import allocator, ceilings, machine, timing
from .block_contenders import Contender, contenders
from .block_options import Options
from .block_workloads import MODELS, BlockLayer
from .cells import add_rates
from .contenders import LABELS, missing
from .micro import UNITS

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


def measure(
    layer: BlockLayer, batch: int, chosen: Sequence[Contender], options: Options, compiles: bool
) -> list[dict[str, Any]]:
    """One row per contender; a row with a "failure" holds no times."""
    module, input = layer.build(), layer.input(batch)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(input.double())
        # Twice the error of PyTorch's own, before anything is folded, and a rounding unit.
        bound = 2 * _distance(module(input), exact) + torch.finfo(input.dtype).eps
    folded = effkern.fold_batch_norm(module)
    flops, size = _facts(folded, input)
    rows, timed = {}, {}
    for contender in chosen:
        if contender.name == "torch_compile" and not compiles:
            continue
        rows[contender.name] = row = {
            "layer": layer.name, "kind": layer.kind, "pass": "fwd", "dtype": "float32",
            "batch": batch, "contender": contender.name, "flops": flops, "bytes": size,
            "failure": None,
        }  # fmt: skip
        try:
            with torch.no_grad(), contender.context():
                call, row["layout"] = contender.build(copy.deepcopy(folded), input)
                error = _distance(call(), exact)
            if not error <= bound:
                row["failure"] = f"wrong: error {error:.2g} of at most {bound:.2g}"
        except _ERRORS as error:
            row["failure"] = f"{type(error).__name__}: {error}"
        if row["failure"] is None:
            timed[contender.name] = contender.timed([call], contender.context)
    timing.interleaved(timed, options.budget, float("inf"))
    for name, measurement in timed.items():
        rows[name]["failure"] = measurement.failure
        if measurement.failure is None:
            rows[name] |= measurement.summary()
    return list(rows.values())


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
    with ExitStack() as stack:
        for contender in chosen:
            stack.callback(contender.close)
        work = [(layer, batch) for batch in options.batches for layer in layers]
        for layer, batch in track(work, "blocks", console=console):
            compiles = options.full or sample[layer.kind] is layer
            cells += measure(layer, batch, chosen, options, compiles)
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
        "memory": [],
    }
