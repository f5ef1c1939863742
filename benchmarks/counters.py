"""What the CPU kernels execute: instructions, loads and cache misses of every pass of every layer.

The kernels run without PyTorch, on one thread: once under valgrind's callgrind, which counts, and
once without it, which tells the time. Needs valgrind and a checkout in which effkern is built.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from . import ceilings, machine
from .cells import roofline
from .options import Options
from .problem import DTYPES, Problem

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
# The kernels of every instruction set, and what chooses and drives them; none of them uses torch.
_OBJECTS = ("cpu", "cpu_baseline", "cpu_avx2", "cpu_avx512", "plan", "cuda_plan")
# Multiply-adds of a vector, two FLOPs each, and the bytes of a cache line.
_LANES = {"baseline": 4, "avx2": 8, "avx512": 16, "avx512_bf16": 16}
_LINE = 64

UNITS = {
    "kernel_us": "microseconds of one call on one thread, the fastest",
    "instructions, loads, stores": "of one call, executed",
    "l1_misses, l2_misses": "cache lines that a call reads or writes and that callgrind's model of "
    "this machine's caches does not hold, the call before having been the same",
    "vectors": "multiply-adds with a pixel of the image, over the lanes of a vector",
    "lines": "cache lines of the operands and the result, once each",
    "floor_us": "the roofline of as many threads as the machine has cores",
}


def _runner(folder: Path) -> Path:
    # tools/ is no package; setup.py finds its modules in the same way.
    sys.path.insert(0, str(ROOT / "tools"))
    import build_plan

    objects = [BUILD / "csrc" / "depthwise_conv2d" / f"depthwise_conv2d_{name}.cpp.o"
               for name in _OBJECTS]  # fmt: skip
    for path in objects[:2]:
        if not path.is_file():
            raise FileNotFoundError(f"counters: wanted {path}; run `make build` first")
    source, target = Path(__file__).parent / "native" / "depthwise_conv2d_cpu.cpp", folder / "run"
    command = [
        *build_plan.find_compiler(), "-O2", "-std=c++17", f"-I{ROOT / 'csrc'}", str(source),
        *(str(path) for path in objects if path.is_file()), "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"counters: {shlex.join(command)} failed: {done.stderr.strip()}")
    return target


def _line(name: int, problem: Problem, layout: str) -> str:
    layer = problem.layer
    numbers = (
        problem.batch, layer.channels, layer.out_channels, layer.height, layer.width,
        layer.kernel_h, layer.kernel_w, layer.stride_h, layer.stride_w, layer.pad_top,
        layer.pad_left,
    )  # fmt: skip
    return " ".join(map(str, (name, problem.pass_, layout, *numbers)))


def _run(command: list[str], lines: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"counters: {shlex.join(command)} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def _counts(folder: Path) -> Iterator[tuple[int, dict[str, int]]]:
    """Of each of callgrind's dumps, the number of the problem and its events."""
    for path in folder.glob("callgrind.out.*"):
        fields = dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
        trigger = fields.get("desc", "") if "Client Request" in fields.get("desc", "") else ""
        if trigger:
            values = map(int, (fields.get("summary") or fields["totals"]).split())
            names = fields["events"].split()
            # Zeros at the end are left out.
            counted = dict.fromkeys(names, 0) | dict(zip(names, values, strict=False))
            yield int(trigger.rsplit(" ", 1)[1]), counted


def _caches() -> list[str]:
    """callgrind's caches as this machine has them; its last level is our L2."""
    sizes = machine.cache_bytes()
    options = [("D1", sizes.get("L1", 32 << 10)), ("LL", sizes.get("L2", 512 << 10))]
    return [f"--{name}={size},8,{_LINE}" for name, size in options]


def run(options: Options, console: Console) -> dict[str, Any]:
    """Counts, and returns the results as they are written to JSON."""
    from effkern import _C

    started = machine.Run()
    # valgrind knows no AVX-512; counts and times are of the same kernels.
    isa = "avx2" if _C.cpu_isa().startswith("avx512") else _C.cpu_isa()
    found = ceilings.measure("cpu", DTYPES["float32"])
    problems = [(p, layout) for p in options.problems() for layout in options.layouts]
    lines = [_line(i, p, layout) for i, (p, layout) in enumerate(problems)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = [str(_runner(folder)), isa]
        times = dict(line.split() for line in _run(runner, lines, folder).splitlines())
        console.print(f"timed {len(times)} problems; callgrind takes a few minutes")
        valgrind = ["valgrind", "--tool=callgrind", "--cache-sim=yes", *_caches()]
        _run([*valgrind, *runner], lines, folder)
        events = dict(_counts(folder))
    found = found.best(ceilings.measure("cpu", DTYPES["float32"]))
    cells = []
    for i, (problem, layout) in enumerate(problems):
        counted = events[i]
        cells.append({
            "layer": problem.layer.name, "kind": problem.layer.kind, "pass": problem.pass_,
            "dtype": problem.dtype, "batch": problem.batch, "layout": layout,
            "flops": problem.flops, "bytes": problem.bytes, **roofline(problem, found),
            "kernel_us": float(times[str(i)]),
            "vectors": problem.flops / 2 / _LANES[isa], "lines": problem.bytes / _LINE,
            "instructions": counted["Ir"], "loads": counted["Dr"], "stores": counted["Dw"],
            "l1_misses": counted["D1mr"] + counted["D1mw"],
            "l2_misses": counted["DLmr"] + counted["DLmw"],
        })  # fmt: skip
    return {
        **started.header("counters"), "units": UNITS, "scope": options.scope,
        "covers_default": options.covers_default, "failed": False,
        "options": asdict(options) | {"output": str(options.output)},
        "machine": machine.facts("cpu") | {"isa": isa, "lanes": _LANES[isa]},
        "slug": machine.slug("cpu"), "ceilings": found.to_json(),
        "layers": {layer.name: uses for layer, uses in options.layers().items()}, "cells": cells,
    }  # fmt: skip
