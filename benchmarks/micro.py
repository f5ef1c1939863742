"""The microbenchmark: every pass of every distinct layer, all contenders, in one run."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import allocator, ceilings, machine, memory, overhead
from .cells import add_rates, measure
from .contenders import LABELS, closing, contenders, failed, limits, missing
from .options import Options, largest_per_kind
from .problem import DTYPES, Problem

UNITS = {
    "*_us": "microseconds",
    "*bytes": "bytes",
    "flops": "floating point operations, two per multiply-add with a pixel of the image",
    "*_per_second": "per second",
    "gflop_per_s": "1e9 floating point operations per second",
    "gb_per_s": "1e9 bytes per second; image, output and weight counted once",
    "floor_us": "the roofline; floor_from: from ceilings of the same rounds, or of the run",
    "over_roofline": "median_us / floor_us",
    "page_faults": "pages touched for the first time, per call",
    "spread": "slowest round's median / fastest round's median",
}


def _weight(problem: Problem) -> float:
    """How long a problem takes, relative to others, for the progress bar."""
    return problem.batch * (1 + problem.flops / 5e7)


def run(options: Options, console: Console) -> dict[str, Any]:
    """Measures and returns the results as they are written to JSON; progress goes to `console`."""
    started = machine.Run()
    absent = missing(options.peers, options.device, options.cold)
    present = [name for name in options.peers if name not in absent]
    chosen = contenders(options.device, options.layouts, present)
    for name, reason in absent.items():
        console.print(f"[yellow]peer {name} is missing: {reason}")
    kept = options.device == "cpu" and allocator.keep_freed_blocks()
    load = [machine.load_average()]
    if (load[0] or 0) > 0.5 * machine.cpu_cores():
        console.print(
            f"[yellow]the machine is busy (load average {load[0]:.1f}); close other programs"
        )
    problems = list(options.problems())
    cells: list[tuple[Problem, dict[str, Any]]] = []
    with closing(chosen), Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("ceilings", total=sum(map(_weight, problems)) + 12)
        dtype = DTYPES[options.dtypes[0]]
        found = ceilings.measure(options.device, dtype)
        progress.advance(task, 2)
        weight_left, end = sum(map(_weight, problems)), time.monotonic() + options.budget.total
        for problem in problems:
            progress.update(task, description=f"{problem.pass_:5} {problem.layer.name:16}")
            allocator.release_freed_blocks()
            share = max(end - time.monotonic(), 0) * _weight(problem) / weight_left
            rows = measure(problem, chosen, options, found, share)
            cells += [(problem, row) for row in rows]
            _report_trouble(problem, rows, options, progress.console)
            weight_left -= _weight(problem)
            progress.advance(task, _weight(problem))
        progress.update(task, description="overhead")
        overheads = overhead.measure(options.device, rounds=5 if options.scope == "quick" else 15)
        progress.advance(task, 2)
        memories = []
        layers = largest_per_kind(list(options.layers()))
        for layer in layers:
            progress.update(task, description=f"memory {layer.name:16}")
            for contender in chosen:
                if contender.trains:
                    memories.append(memory.measure(contender, layer, "float32", 1, options.device))
            progress.advance(task, 6 / len(layers))
        found = found.best(ceilings.measure(options.device, dtype))
        progress.advance(task, 2)
    _report_lateness(cells, console)
    for _, row in cells:
        add_rates(row, found)
    load.append(machine.load_average())
    return {
        **started.header("micro"),
        "units": UNITS,
        "scope": options.scope,
        "covers_default": options.covers_default,
        "failed": failed([row for _, row in cells]),
        "load_average": load,
        "options": options.to_json(),
        "machine": machine.facts(options.device),
        "slug": machine.slug(options.device),
        "ceilings": found.to_json(),
        "contenders": {contender.name: LABELS[contender.name] for contender in chosen},
        "missing": absent,
        "limits": limits(chosen, problems),
        "allocator_keeps_blocks": kept,
        "layers": {layer.name: uses for layer, uses in options.layers().items()},
        "cells": [row for _, row in cells],
        "overhead": overheads,
        "memory": memories,
    }


def _report_trouble(
    problem: Problem, rows: list[dict[str, Any]], options: Options, console: Console
) -> None:
    what = f"{problem.pass_} of {problem.layer.name}, {problem.dtype}, batch {problem.batch}"
    for row in rows:
        if row["failure"]:
            console.print(f"[red]refused: {what}, {LABELS[row['contender']]}: {row['failure']}")
    capped = [row for row in rows if row.get("capped") == "cell"]
    if capped:
        budget = options.budget
        rounds = ", ".join(f"{LABELS[row['contender']]} {row['rounds']}" for row in capped)
        console.print(
            f"[dim]capped at {budget.cap:g} s: {what}: {rounds} of {budget.rounds} rounds",
            highlight=False,
        )


def _report_lateness(cells: list[tuple[Problem, dict[str, Any]]], console: Console) -> None:
    late = sum(row.get("capped") == "run" for _, row in cells)
    if late:
        console.print(
            f"[yellow]{late} of {len(cells)} measurements got fewer rounds than planned, to keep "
            "to the time of the run"
        )
