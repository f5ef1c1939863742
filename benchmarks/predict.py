"""Predicted times: every pass of every distinct layer, for GPU kernels that nobody has run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from effkern import _library
from effkern.prediction import BY_CAPABILITY, WARP, Ceilings

from . import machine, workloads
from .options import one_per_kind
from .predicted_calls import cuda_calls, predict, triton_calls
from .problem import LAYOUTS, PASSES, Problem
from .workloads import Layer

_CALLS = {"cuda": cuda_calls, "triton": triton_calls}
# Of a kernel that a quick run follows, instead of MOST_STEPS.
_QUICK_STEPS = 3000
UNITS = {
    "*_us": "microseconds",
    "over_floor": "time_us / floor_us; the floor: operands and result once, at the copy's rate",
    "terms_us": "what each unit needs at the rate that kernels reach, added over launches",
    "launch_terms_us": "the same of each launch, in the order of terms_us",
    "instructions_per_output": "of a lane, all launches, per pixel of the output, and of the input "
    "for its gradient",
    "counted_at_batch": "the batch whose launches were looked at; counts are scaled from it",
}


@dataclass
class Options:
    """The scope of a run."""

    models: list[str] = field(default_factory=workloads.models)
    passes: list[str] = field(default_factory=lambda: list(PASSES))
    dtypes: list[str] = field(default_factory=lambda: ["bfloat16", "float32"])
    layouts: list[str] = field(default_factory=lambda: list(LAYOUTS))
    batches: list[int] = field(default_factory=lambda: [128])
    capability: int = 90
    quick: bool = False
    output: Path = Path("results")

    def __post_init__(self) -> None:
        for model in self.models:
            workloads.load(model)
        known = {"--pass": PASSES, "--dtype": ("bfloat16", "float16", "float32")}
        given = {"--pass": self.passes, "--dtype": self.dtypes, "--layout": self.layouts}
        for option, values in given.items():
            for value in values:
                if value not in known.get(option, tuple(LAYOUTS)):
                    names = ", ".join(known.get(option, tuple(LAYOUTS)))
                    raise ValueError(f"{option}: wanted one of {names}, got {value!r}")
        if self.capability not in BY_CAPABILITY:
            names = ", ".join(map(str, BY_CAPABILITY))
            raise ValueError(f"--sm: wanted one of {names}, got {self.capability}")
        if min(self.batches) < 1:
            raise ValueError(f"--batch: wanted positive numbers, got {min(self.batches)}")
        if error := _library.emulation_error():
            raise ValueError(f"predict: wanted the emulated library, got {error}")

    @property
    def ceilings(self) -> Ceilings:
        return BY_CAPABILITY[self.capability]

    @property
    def covers_default(self) -> bool:
        default = Options()
        names = ("models", "passes", "dtypes", "layouts", "batches")
        return not self.quick and all(
            set(getattr(self, name)) >= set(getattr(default, name)) for name in names
        )

    @property
    def calls(self) -> dict[str, Any]:
        quick = partial(cuda_calls, most_steps=_QUICK_STEPS)
        return _CALLS | ({"cuda": quick} if self.quick else {})

    def layers(self) -> dict[Layer, dict[str, int]]:
        """The layers and the models they occur in; a quick run takes one of each class, and none
        whose loops over a large kernel take seconds to follow."""
        found = workloads.distinct(self.models)
        if not self.quick:
            return found
        small = [layer for layer in found if layer.kernel_h <= 7]
        return {layer: found[layer] for layer in one_per_kind(small).values()}

    def problems(self) -> Iterator[tuple[Problem, str]]:
        for dtype in self.dtypes:
            for batch in self.batches:
                for layer in self.layers():
                    for pass_ in self.passes:
                        for layout in self.layouts:
                            yield Problem(layer, pass_, dtype, batch, "cuda"), layout


def cell(problem: Problem, layout: str, kernels: str, options: Options) -> dict[str, Any]:
    """The row of one problem and implementation; one with a "failure" holds no times."""
    layer = problem.layer
    row: dict[str, Any] = {
        "layer": layer.name, "kind": layer.kind, "pass": problem.pass_, "dtype": problem.dtype,
        "batch": problem.batch, "layout": layout, "kernels": kernels, "failure": None,
    }  # fmt: skip
    try:
        facts, batch = options.calls[kernels](problem, layout, options.capability)
    except RuntimeError as error:
        return row | {"failure": f"{type(error).__name__}: {error}"}
    found = predict(problem, facts, options.ceilings)
    pixels = layer.height * layer.width
    if problem.pass_ != "dgrad":
        pixels = layer.out_height * layer.out_width
    instructions = sum(one.instructions for one in facts)
    main = max(facts, key=lambda one: one.instructions)
    return row | {
        "kernel": main.kernel,
        "launches": len(facts),
        "time_us": found.time * 1e6,
        "floor_us": found.floor * 1e6,
        "over_floor": found.over_floor,
        "bound": found.bound,
        "terms_us": {name: seconds * 1e6 for name, seconds in found.terms.items()},
        "launch_terms_us": [
            [seconds * 1e6 for seconds in launch.values()] for launch in found.launches
        ],
        "instructions_per_output": WARP * instructions
        / (problem.batch * layer.out_channels * pixels),
        "multiply_add_share": sum(one.multiply_adds for one in facts) / instructions,
        "registers": main.registers,
        "occupancy": main.occupancy,
        "counted_at_batch": batch,
    }  # fmt: skip


def run(options: Options, console: Console) -> dict[str, Any]:
    """Predicts, and returns the results as they are written to JSON."""
    started = machine.Run()
    problems = list(options.problems())
    cells = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("machine code", total=len(problems))
        for problem, layout in problems:
            cells += [cell(problem, layout, kernels, options) for kernels in _CALLS]
            progress.update(
                task, advance=1, description=f"{problem.pass_:5} {problem.layer.name:16}"
            )
    for row in cells:
        if row["failure"]:
            console.print(
                f"[red]{row['pass']} of {row['layer']}, {row['kernels']}: {row['failure']}"
            )
    ceilings = options.ceilings
    return {
        **started.header("predicted"),
        "units": UNITS,
        "scope": "quick" if options.quick else "default",
        "covers_default": options.covers_default,
        "failed": any(row["failure"] for row in cells),
        "options": asdict(options) | {"output": str(options.output)},
        "machine": {"native_library": _library.available()},
        "slug": f"{ceilings.name.lower()}-predicted",
        "ceilings": asdict(ceilings),
        "layers": {layer.name: uses for layer, uses in options.layers().items()},
        "cells": cells,
    }
