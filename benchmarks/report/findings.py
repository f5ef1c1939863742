"""What a run found, in words with their numbers; and what it was measured on."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import analysis
from ..contenders import LABELS

_PASSES = {"fwd": "Forward", "dgrad": "Input gradient", "wgrad": "Weight gradient"}


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
    if results.get("published", {}).get("note"):
        found.append(f"Published although it would be refused: {results['published']['note']}")
    return found


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
    theirs = table[table["contender"].isin(analysis.TORCH)]
    for pass_, group in theirs.groupby("pass", sort=False):
        distances = ", ".join(
            f"{LABELS[row['contender']]} {row['over_roofline']:.1f}x" for _, row in group.iterrows()
        )
        found.append(f"{_PASSES[pass_]}: distance of PyTorch from the roofline: {distances}.")
    if not analysis.is_compared(cells):
        return found + _overhead(results) + _memory(results)
    slower = cells[cells["contender"].map(analysis.is_effkern) & (cells["speedup"] < 0.95)]
    problems = slower[analysis.PROBLEM].drop_duplicates()
    found.append(
        f"effkern is slower than PyTorch's better layout by more than 5 % on {len(slower)} of "
        f"{int(cells['contender'].map(analysis.is_effkern).sum())} measurements"
        + (f", the first: {', '.join(map(str, problems.iloc[0]))}." if len(problems) else ".")
    )
    return found + _overhead(results) + _memory(results)


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


def setting(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Machine, versions and method."""
    machine, ceilings = results["machine"], results["ceilings"]
    copies = ", ".join(f"{size >> 10} KiB {rate / 1e9:.0f}" for size, rate in ceilings["copies"])
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)
    commit = results["commit"]
    temperature = "cold (operands rotate past the caches)" if (
        results["options"]["cold"] or machine["device"] == "cuda"
    ) else "warm (the same operands in each call, allocator warm)"  # fmt: skip
    return [
        ("Device", machine.get("gpu", {}).get("name") or machine["cpu"]),
        ("CPU", f"{machine['cpu']}, {machine['cpu_cores']} cores, {machine['threads']} threads"),
        ("Instruction set", machine["cpu_instruction_set"]),
        ("Peak", f"{ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s ({ceilings['how']['flops']})"),
        ("Copy bandwidth, GB/s", f"{copies} ({ceilings['how']['copies']})"),
        ("Versions", versions),
        ("Commit", f"{commit['sha'] or 'none'}{' with changes' if commit['dirty'] else ''}"),
        ("Caches", temperature),
        ("Missing peers", "; ".join(f"{k}: {v}" for k, v in results["missing"].items()) or "none"),
        ("Run", f"{results['started']}, {results['seconds']:.0f} s, scope {results['scope']}"),
        ("Load average", ", ".join(f"{v:.1f}" for v in results["load_average"] if v is not None)),
    ]


def reproduce(results: dict[str, Any]) -> list[str]:
    """The commands that repeat the run."""
    checkout = [f"git checkout {results['commit']['sha']}"] if results["commit"]["sha"] else []
    return [*checkout, "make bench", f"# or: {' '.join(results['command'])}"]
