"""The tables of a report, as text cells; terminal, Markdown and HTML lay out the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .. import analysis
from ..contenders import LABELS


@dataclass
class Table:
    """Text columns first (`labels` of them), then numbers; `best` holds (row, column) to mark."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    labels: int = 1
    best: set[tuple[int, int]] = field(default_factory=set)
    detail: bool = False


def number(value: Any) -> str:
    """Three significant digits; empty for what was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    return (
        f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"
    )


def _from_frame(
    title: str, data: pd.DataFrame, labels: Sequence[str], note: str = "", lowest: bool = False,
    detail: bool = False,
) -> Table:  # fmt: skip
    numbers = [column for column in data.columns if column not in labels]
    rows, best = [], set()
    contenders = [column for column in numbers if column in LABELS]
    for i, record in enumerate(data.to_dict("records")):
        rows.append([str(record[k]) for k in labels] + [number(record[k]) for k in numbers])
        measured = [k for k in contenders if not pd.isna(record[k])]
        if lowest and measured:
            winner = min(measured, key=record.__getitem__)
            best.add((i, len(labels) + numbers.index(winner)))
    names = [LABELS.get(column, column) for column in numbers]
    return Table(title, [*labels, *names], rows, note, len(labels), best, detail)


def _varying(data: pd.DataFrame, labels: list[str]) -> list[str]:
    """Labels, without dtype and batch where there is only one."""
    return [k for k in labels if k not in ("dtype", "batch") or data[k].nunique() > 1]


def build(results: dict[str, Any]) -> list[Table]:
    """All tables of a microbenchmark's results."""
    cells = analysis.frame(results)
    order = [name for name in LABELS if name in set(cells["contender"])]

    def table(title: str, data: pd.DataFrame, labels: list[str], **options: Any) -> Table:
        labels = _varying(data, labels)
        others = [k for k in data.columns if k in ("layers", "roofline")]
        columns = [k for k in order if k in data.columns]
        return _from_frame(title, data[[*labels, *others, *columns]], labels, **options)

    tables = [_overall(cells)]
    kinds = ["dtype", "batch", "pass", "kind"]
    ours = cells[cells["contender"].map(analysis.is_effkern)]
    if analysis.is_compared(cells):
        speedups = analysis.by_kind(ours, "speedup")
        note = "Geometric means; k: kernel size, s: stride. Higher is better."
        title = "Speed-up over PyTorch's better layout, by class"
        tables.append(table(title, speedups, kinds, note=note))
    tables += [
        table(
            "Time over the roofline, by class", analysis.by_kind(cells, "over_roofline"), kinds,
            note="Geometric means; 1 is the least time that the measured ceilings allow. "
            "torch.compile: on one layer of a class, unless the run was full.", lowest=True,
        ),
        table(
            "All depthwise layers of a model, microseconds", analysis.by_model(results, cells),
            ["dtype", "batch", "model", "pass"], lowest=True,
            note="Sum over the layers of the model at its image size, each as often as it occurs.",
        ),
    ]  # fmt: skip
    tables += [_overhead(results), _memory(results)]
    for pass_ in sorted(set(cells["pass"]), key=analysis.PASS_ORDER.__getitem__):
        times = analysis.by_layer(cells[cells["pass"] == pass_], "median_us")
        floors = cells.drop_duplicates(analysis.PROBLEM).set_index(analysis.PROBLEM)["floor_us"]
        keys = pd.MultiIndex.from_frame(times[analysis.PROBLEM])
        times.insert(0, "roofline", floors.reindex(keys).to_numpy())
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
    labels = _varying(data, ["dtype", "batch", "pass", "contender"])
    return _from_frame(
        "Overall", data[[*labels, "layers", *names]].rename(columns=names), labels,
        note="Geometric means over the layers; speed-up over PyTorch's better layout of each "
        "layer, by medians and by 20th percentiles.",
    )  # fmt: skip


def _overhead(results: dict[str, Any]) -> Table:
    return _from_frame(
        "A call on a tiny tensor (1x8x4x4, 3x3), microseconds of host time",
        analysis.overhead(results), ["layout", "mode"],
        note="grad_forward: the forward pass with gradients recorded.",
    )  # fmt: skip


def _memory(results: dict[str, Any]) -> Table:
    rows = pd.DataFrame(results["memory"])
    rows["contender"] = rows["contender"].map(LABELS)
    for kind in ("allocated", "resident"):
        rows[f"{kind} MiB"] = rows[f"{kind}_peak_bytes"].astype(float) / 2**20
    return _from_frame(
        "Peak memory of forward + backward beyond the operands, MiB",
        rows[["layer", "contender", "allocated MiB", "resident MiB"]], ["layer", "contender"],
        note="allocated: torch's allocations; resident: all pages touched, libraries' scratch "
        "included, in steps of about 0.1 MiB. The largest layer of each class.",
    )  # fmt: skip
