"""The benchmark of whole blocks: every distinct block of the models, all contenders, in one run."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import track

from . import allocator, ceilings, machine
from .block_cells import measure, memory
from .block_contenders import contenders, limits
from .block_options import Options
from .block_workloads import MODELS
from .cells import add_rates
from .contenders import LABELS, failed, missing
from .micro import UNITS


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
    peaks: list[dict[str, Any]] = []
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
            peaks += memory(layer, options.batches[0], chosen)
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
        "failed": failed(cells),
        "load_average": load,
        "options": {"models": options.models, "batches": options.batches, "cold": False},
        "machine": machine.facts("cpu"),
        "slug": machine.slug("cpu"),
        "ceilings": found.to_json(),
        "contenders": {contender.name: LABELS[contender.name] for contender in chosen},
        "missing": absent,
        "limits": limits(chosen, options.batches),
        "allocator_keeps_blocks": kept,
        "layers": {layer.name: uses for layer, uses in layers.items()},
        "cells": cells,
        "overhead": [],
        "memory": peaks,
    }
