"""One problem, measured: its contenders built, checked, timed, and set against the roofline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from . import correctness, timing, timing_cuda
from .binding_ceiling import binding_ceiling
from .budget import Budget
from .ceilings import Ceilings
from .contenders import Contender, auto_choice
from .options import Options
from .problem import Problem, Tensors, random_tensors
from .timing import Timed

# Bytes of the largest caches to rotate over in a cold run, and the most copies that are made.
_COLD_BYTES = 96 << 20
_MAX_COPIES = 64


def roofline(problem: Problem, ceilings: Ceilings) -> dict[str, Any]:
    """The least time the device's ceilings allow, in microseconds, and which of them binds."""
    return _floor(problem.flops, problem.bytes, ceilings)


def _floor(flops: int, size: int, ceilings: Ceilings) -> dict[str, Any]:
    compute = flops / ceilings.flops_per_second
    memory = size / ceilings.bandwidth(size)
    return {
        "floor_us": max(compute, memory) * 1e6,
        "bound": "compute" if compute >= memory else "bandwidth",
    }


def _copies(problem: Problem, options: Options) -> int:
    if options.device == "cuda":
        return timing_cuda.copies(problem.bytes)
    return min(-(-_COLD_BYTES // problem.bytes) + 1, _MAX_COPIES) if options.cold else 1


def _better_layout(problem: Problem, base: Tensors, contenders: list[Contender]) -> str:
    """The layout in which eager torch is faster, for torch.compile."""
    eager = [c for c in contenders if c.name in ("torch", "torch_channels_last")]
    if problem.device == "cuda" or len(eager) < 2:
        return "channels_last"
    with timing.quiet():
        times = {c.layout: timing.probe([c.build(problem, base.to(c.layout))]) for c in eager}
    return min(times, key=times.__getitem__)


def measure(
    problem: Problem,
    contenders: list[Contender],
    options: Options,
    ceilings: Ceilings,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row per contender, in about `seconds`; a row with a "failure" holds no times."""
    base = random_tensors(problem)
    expected = correctness.reference(problem, base)
    timed: dict[str, Timed] = {}
    rows: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        if contender.limit(problem) is not None:
            continue
        if contender.name == "torch_compile":
            if not options.compiles(problem):
                continue
            contender = replace(contender, layout=_better_layout(problem, base, contenders))
        rows[contender.name] = row = {
            "layer": problem.layer.name,
            "kind": problem.layer.kind,
            "pass": problem.pass_,
            "dtype": problem.dtype,
            "batch": problem.batch,
            "contender": contender.name,
            "layout": contender.layout,
            "flops": problem.flops,
            "bytes": problem.bytes,
            **roofline(problem, ceilings),
            "failure": None,
        }
        # What a contender raises is a result too; the other contenders still get measured.
        try:
            copies = [base.to(contender.layout) for _ in range(_copies(problem, options))]
            with torch.no_grad(), contender.context():
                calls = [contender.build(problem, tensors) for tensors in copies]
            row["failure"] = correctness.failure(
                problem, expected, contender.layout, calls[0], contender.context()
            )
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            row["failure"] = f"{type(error).__name__}: {error}"
        if contender.backend:
            row["backend"] = contender.backend
            row["auto"] = auto_choice(problem, contender.layout)
        if row["failure"] is None:
            timed[contender.name] = contender.timed(calls, contender.context)
    if options.device == "cuda":
        for name, facts in timing_cuda.interleaved(timed, options.budget, seconds).items():
            rows[name] |= facts
    else:
        interleave(timed, options.budget, seconds, ceilings, rows)
    for name, measurement in timed.items():
        rows[name]["failure"] = measurement.failure
        if measurement.failure is None:
            rows[name] |= measurement.summary()
    return list(rows.values())


def interleave(
    timed: dict[str, Timed],
    budget: Budget,
    seconds: float,
    ceilings: Ceilings,
    rows: dict[str, dict[str, Any]],
) -> None:
    """Times contenders on the CPU, and with them the ceiling that binds, for all rows."""
    if not timed:
        return
    flops, size = next((row["flops"], row["bytes"]) for row in rows.values())
    ceiling = binding_ceiling(flops, size, ceilings)
    timing.interleaved(timed, budget, seconds, ceiling)
    for row in rows.values():
        row["floor_from"] = "rounds" if ceiling else "run"
        row |= ceiling.floor() if ceiling else {}


def add_rates(row: dict[str, Any], ceilings: Ceilings) -> None:
    """Adds throughput and the distance from the roofline; the final ceilings give the floors that
    were not measured with the cell."""
    if row.get("floor_from") != "rounds":
        row |= _floor(row["flops"], row["bytes"], ceilings)
    if row["failure"] is None:
        seconds = row["median_us"] * 1e-6
        row["gflop_per_s"] = row["flops"] / seconds * 1e-9
        row["gb_per_s"] = row["bytes"] / seconds * 1e-9
        row["over_roofline"] = row["median_us"] / row["floor_us"]
