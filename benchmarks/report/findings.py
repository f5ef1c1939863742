"""What a run found, in words with their numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import analysis, comparisons
from ..contenders import LABELS
from .setting import publication_note
from .style import PASS_TITLES

_PASSES = {pass_: title.capitalize() for pass_, title in PASS_TITLES.items()}


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader must know before believing a number."""
    found = []
    if not results["machine"]["native_library"]:
        reason = results["machine"]["native_library_error"]
        found.append(f"effkern's native library is missing: its columns show PyTorch. {reason}")
    failures = [row for row in results["cells"] if row["failure"]]
    if failures:
        layers = sorted({f"{LABELS[r['contender']]} {r['pass']} {r['layer']}" for r in failures})
        found.append(f"Refused, no valid result in this run: {'; '.join(layers)}.")
    if results["scope"] == "quick":
        found.append("A quick run: one layer per class, few repeats.")
    load = max((value for value in results["load_average"] if value is not None), default=0)
    timed = [row for row in results["cells"] if row["failure"] is None]
    share = sum(r["disturbed_rounds"] for r in timed) / max(sum(r["rounds"] for r in timed), 1)
    if load > results["machine"]["threads"] + 1 or share > 0.1:
        found.append(
            f"The machine was busy: load average up to {load:.1f}, {share:.0%} of the rounds "
            "had to wait for a core."
        )
    return found + publication_note(results)


def _speed(row: Any) -> str:
    what = f"{_PASSES[row['pass']]}, {row['dtype']}, batch {row['batch']}"
    speedup = f"{row['speedup']:.2f}x as fast as PyTorch's better layout"
    return (
        f"{what}, {LABELS[row['contender']]}: {speedup} "
        f"({row['slowest']:.2f}x to {row['fastest']:.2f}x over {row['layers']} layers), "
        f"at {row['over_roofline']:.2f}x the roofline time."
    )


def build(results: dict[str, Any]) -> list[str]:
    """The findings, most important first."""
    cells = analysis.frame(results)
    table = analysis.overall(cells)
    ours = table[table["contender"].map(analysis.is_effkern)]
    found = [_speed(row) for _, row in ours.dropna(subset=["speedup"]).iterrows()]
    found += best_peers(cells) + unranked_peers(cells) + _half(cells)
    theirs = table[table["contender"].isin(analysis.TORCH)]
    for (dtype, batch, pass_), group in theirs.groupby(["dtype", "batch", "pass"], sort=False):
        distances = ", ".join(
            f"{LABELS[row['contender']]} {row['over_roofline']:.1f}x" for _, row in group.iterrows()
        )
        found.append(
            f"{_PASSES[pass_]}, {dtype}, batch {batch}: distance of PyTorch from the roofline: "
            f"{distances}."
        )
    rest = _overhead(results) + _memory(results) if results["kind"] == "micro" else []
    if not analysis.is_compared(cells):
        return found + rest
    slower = cells[cells["contender"].map(analysis.is_effkern) & (cells["speedup"] < 0.95)]
    problems = slower[analysis.PROBLEM].drop_duplicates()
    found.append(
        f"effkern is slower than PyTorch's better layout by more than 5 % on {len(slower)} of "
        f"{int(cells['contender'].map(analysis.is_effkern).sum())} measurements"
        + (f", the first: {', '.join(map(str, problems.iloc[0]))}." if len(problems) else ".")
    )
    return found + rest


def best_peers(cells: pd.DataFrame) -> list[str]:
    found = []
    for _, group in cells.groupby(["dtype", "batch", "pass"], sort=False):
        if not comparisons.has_runtimes(group):
            continue
        found += [
            f"{_PASSES[row['pass']]}, {row['dtype']}, batch {row['batch']}, "
            f"{LABELS[row['contender']]}: {row['mean']:.2f}x as fast as the best peer of each "
            f"layer ({row['peers']}), on the worst layer ({row['worst_layer']}) "
            f"{row['worst']:.2f}x."
            for _, row in comparisons.best_peer_summary(group).iterrows()
        ]
    return found


def unranked_peers(cells: pd.DataFrame) -> list[str]:
    """How far those that are nobody's best peer are beyond the others' bound on the error."""
    found = []
    for name in analysis.unranked(cells):
        theirs = cells[cells["contender"] == name].set_index(analysis.PROBLEM)
        errors = theirs["error_over_bound"]
        found.append(
            f"{LABELS[name]} is listed beside the others and is no best peer: its error is beyond "
            f"their bound on {(errors > 1).sum()} of {len(errors)} measurements, and "
            f"{errors.max():.2g} times the bound at most ({errors.idxmax()[-1]})."
        )
    return found


def _half(cells: pd.DataFrame) -> list[str]:
    return [
        f"{_PASSES[row['pass']]}, batch {row['batch']}, {LABELS[row['contender']]}: {row['dtype']} "
        f"takes {row['mean']:.2f} of effkern's float32 time, on the worst layer "
        f"({row['worst_layer']}) {row['worst']:.2f}."
        for _, row in comparisons.half_summary(cells).iterrows()
    ]


def _overhead(results: dict[str, Any]) -> list[str]:
    table = analysis.overhead(results)
    found = []
    for mode, group in table.groupby("mode", sort=False):
        theirs, ours = group["F.conv2d"].min(), group["effkern.functional"].max()
        found.append(
            f"A call on a tiny tensor, {mode}: {ours:.1f} us, F.conv2d {theirs:.1f} us "
            f"({ours / theirs:.2f} of it; effkern's slower layout, PyTorch's faster one)."
        )
    return found


def _memory(results: dict[str, Any]) -> list[str]:
    rows = pd.DataFrame(results["memory"])
    found = []
    for kind in ("allocated", "resident"):
        column = f"{kind}_peak_bytes"
        table = rows.pivot_table(index="layer", columns="contender", values=column, aggfunc="max")
        pairs = [(k.replace("effkern", "torch"), k) for k in table if analysis.is_effkern(k)]
        ratios = pd.concat([table[a] / table[b] for b, a in pairs if b in table] or [pd.Series()])
        if len(ratios):
            found.append(
                f"Peak memory of forward + backward ({kind}), against PyTorch in the same layout: "
                f"{ratios.min():.2f} to {ratios.max():.2f} of it."
            )
    return found
