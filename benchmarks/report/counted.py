"""The report on what the CPU kernels execute: tables, findings, what they rest on."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..analysis import PASS_ORDER, geomean
from .setting import checkout, commit, publication_note, run
from .style import PASS_TITLES
from .table import Table, from_frame, varying

_NAMES = {
    "kernel_us": "one thread, us", "floor_us": "floor, us", "bound": "bound by",
    "per_vector": "instructions / vector", "cycles": "cycles / vector",
    "ipc": "instructions / cycle", "l1": "L1 misses / line", "l2": "L2 misses / line",
}  # fmt: skip
_NOTE = (
    "Vector: multiply-adds with pixels of the image over the lanes, half a cycle each at best. "
    "Line: cache lines of operands and result. Cycles at the clock of the measured peak. The floor "
    "is that of all cores."
)


def clock(results: dict[str, Any]) -> float:
    """Cycles per second, if each core does two vectors of multiply-adds in each."""
    machine = results["machine"]
    return results["ceilings"]["flops_per_second"] / (machine["threads"] * 4 * machine["lanes"])


def frame(results: dict[str, Any]) -> pd.DataFrame:
    """The cells with ratios, and with the contender of the microbenchmark that they belong to."""
    cells = pd.DataFrame(results["cells"])
    cycles = cells["kernel_us"] * 1e-6 * clock(results)
    order = cells["layer"].map({name: i for i, name in enumerate(results["layers"])})
    return cells.assign(
        contender=cells["layout"].map(
            {"contiguous": "effkern", "channels_last": "effkern_channels_last"}
        ),
        per_vector=cells["instructions"] / cells["vectors"],
        cycles=cycles / cells["vectors"],
        ipc=cells["instructions"] / cycles,
        l1=cells["l1_misses"] / cells["lines"],
        l2=cells["l2_misses"] / cells["lines"],
        _pass=cells["pass"].map(PASS_ORDER),
        _layer=order,
    ).sort_values(["dtype", "batch", "_pass", "_layer"], kind="stable")


def warnings(results: dict[str, Any]) -> list[str]:
    found = []
    if results["scope"] == "quick":
        found.append("A quick run: one layer per class.")
    return found + publication_note(results)


def findings(results: dict[str, Any]) -> list[str]:
    found = []
    groups = frame(results).groupby(["batch", "pass", "layout"], sort=False)
    for (batch, pass_, layout), group in groups:
        found.append(
            f"{PASS_TITLES[pass_].capitalize()}, {layout}, batch {batch}: "
            f"{geomean(group['per_vector']):.2f} instructions and {geomean(group['cycles']):.2f} "
            f"cycles per vector of multiply-adds (0.5 at best), {geomean(group['l1']):.2f} L1 "
            f"misses per cache line of the tensors (geometric means of {len(group)} layers)."
        )
    return found


def tables(results: dict[str, Any]) -> list[Table]:
    cells = frame(results)
    keys = ["batch", "pass", "layout", "kind"]
    ratios = ["per_vector", "cycles", "ipc", "l1", "l2"]
    classes = cells.groupby(keys, sort=False)[ratios].agg(geomean).reset_index()
    classes.insert(4, "layers", cells.groupby(keys, sort=False)["layer"].nunique().to_numpy())
    labels = [key for key in keys if key != "batch" or cells["batch"].nunique() > 1]
    shown = classes[[*labels, "layers", *ratios]].rename(columns=_NAMES)
    found = [from_frame("By class", shown, labels, note=f"Geometric means. {_NOTE}")]
    for pass_ in sorted(set(cells["pass"]), key=PASS_ORDER.__getitem__):
        part = cells[cells["pass"] == pass_]
        labels = [*varying(part, ["batch"]), "layer", "layout", "bound"]
        shown = part[[*labels, "kernel_us", "floor_us", *ratios]].rename(columns=_NAMES)
        named = [_NAMES.get(label, label) for label in labels]
        title = f"{PASS_TITLES[pass_]}: per layer"
        found.append(from_frame(title, shown, named, detail=True, note=_NOTE))
    return found


def setting(results: dict[str, Any]) -> list[tuple[str, str]]:
    machine = results["machine"]
    caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in machine["cache_bytes"].items())
    return [
        ("CPU", f"{machine['cpu']}, {machine['threads']} threads, {caches}"),
        ("Instruction set", machine["isa"]),
        ("Clock", f"{clock(results) / 1e9:.2f} GHz (measured peak over two vectors per cycle)"),
        (
            "Method",
            "The kernels without PyTorch, on one thread, warm. Time: the fastest call of 20 ms. "
            "Counts: valgrind's callgrind, caches of this machine's sizes without prefetchers, the "
            "call before having been the same.",
        ),
        commit(results),
        run(results),
    ]


def reproduce(results: dict[str, Any]) -> list[str]:
    return [*checkout(results), "make build", " ".join(results["command"])]
