"""The tables of a report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import analysis
from ..contenders import LABELS
from . import comparison_tables
from .style import PASS_TITLES
from .table import Table, from_frame, varying

# Of a contender that the others' bound on the error does not hold for.
_ERROR = ": error / bound"


def build(results: dict[str, Any]) -> list[Table]:
    """All tables of the results for layers or blocks."""
    what = "blocks" if results["kind"] == "blocks" else "depthwise layers"
    cells = analysis.frame(results)
    order = [name for name in LABELS if name in set(cells["contender"])]
    unranked = analysis.unranked(cells)

    def table(title: str, data: pd.DataFrame, labels: list[str], **options: Any) -> Table:
        labels = varying(data, labels)
        others = [k for k in data.columns if k in ("layers", "roofline")]
        columns = [k for k in order if k in data.columns]
        data = data[[*labels, *others, *columns, *(k for k in data.columns if k.endswith(_ERROR))]]
        return from_frame(title, data, labels, unranked=unranked, **options)

    tables = [_overall(cells), *comparison_tables.build(results, cells)]
    classes = ["dtype", "batch", "pass", "class"]
    ours = cells[cells["contender"].map(analysis.is_effkern)]
    if analysis.is_compared(cells):
        speedups = analysis.by_group(ours, "speedup")
        note = "Geometric means; s: stride. Higher is better."
        title = "Speed-up over PyTorch's better layout, by class"
        tables.append(table(title, speedups, classes, note=note))
    tables += [
        table(
            "Time over the roofline, by class", analysis.by_group(cells, "over_roofline"),
            classes, lowest=True,
            note="Geometric means over the layers; 1 is the least time that the measured ceilings "
            "allow. torch.compile: on a few layers only, unless the run was full.",
        ),
        table(
            f"All {what} of a model, microseconds", analysis.by_model(results, cells),
            ["dtype", "batch", "model", "pass"], lowest=True,
            note="Sum over the layers of the model at its image size, each as often as it occurs.",
        ),
    ]  # fmt: skip
    if results["kind"] == "micro":
        tables += [_overhead(results)]
    if results["memory"]:
        tables += [_memory(results)]
    for pass_ in sorted(set(cells["pass"]), key=analysis.PASS_ORDER.__getitem__):
        times = analysis.by_layer(cells[cells["pass"] == pass_], "median_us")
        floors = cells.drop_duplicates(analysis.PROBLEM).set_index(analysis.PROBLEM)["floor_us"]
        keys = pd.MultiIndex.from_frame(times[analysis.PROBLEM])
        times.insert(0, "roofline", floors.reindex(keys).to_numpy())
        errors = cells[cells["pass"] == pass_].set_index([*analysis.PROBLEM, "contender"])
        for name in (name for name in unranked if name in times):
            found = errors.xs(name, level="contender")["error_over_bound"]
            times[f"{LABELS[name]}{_ERROR}"] = found.reindex(keys).to_numpy()
        tables.append(
            table(f"{pass_}: microseconds per layer", times, ["dtype", "batch", "layer"],
                  note="Medians. Layer: channels@size, kernel, stride.", lowest=True, detail=True)
        )  # fmt: skip
    return tables


def _overall(cells: pd.DataFrame) -> Table:
    data = analysis.overall(cells)
    data["contender"] = data["contender"].map(LABELS)
    names = {
        "over_roofline": "time / roofline",
        "speedup": "speed-up",
        "speedup_p20": "speed-up (p20)",
        "slowest": "worst layer",
        "fastest": "best layer",
    }
    labels = varying(data, ["dtype", "batch", "pass", "contender"])
    return from_frame(
        "Overall", data[[*labels, "layers", *names]].rename(columns=names), labels,
        note="Geometric means over the layers; speed-up over PyTorch's better layout of each "
        "layer, by medians and by 20th percentiles.",
    )  # fmt: skip


def _overhead(results: dict[str, Any]) -> Table:
    return from_frame(
        "A call on a tiny tensor (1x8x4x4, 3x3), microseconds of host time",
        analysis.overhead(results), ["layout", "mode"],
        note="grad_forward: the forward pass with gradients recorded.",
    )  # fmt: skip


def _memory(results: dict[str, Any]) -> Table:
    rows = pd.DataFrame(results["memory"])
    rows["contender"] = rows["contender"].map(LABELS)
    for kind in ("allocated", "resident"):
        rows[f"{kind} MiB"] = rows[f"{kind}_peak_bytes"].astype(float) / 2**20
    if "pass" not in rows:
        rows["pass"] = "fwd_bwd"
    rows["pass"] = rows["pass"].map(PASS_TITLES)
    labels = ["layer", *varying(rows, ["batch", "pass"]), "contender"]
    return from_frame(
        f"Peak memory of {' and of '.join(rows['pass'].unique())} beyond the operands, MiB",
        rows[[*labels, "allocated MiB", "resident MiB"]], labels,
        note="allocated: torch's allocations; resident: all pages touched, libraries' scratch "
        "included, in steps of about 0.1 MiB. The largest layer of each class.",
    )  # fmt: skip
