"""The report on predicted times: tables, findings, what they rest on."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..analysis import PASS_ORDER, geomean
from .setting import checkout, commit, publication_note, run, versions
from .style import PASS_TITLES, PREDICTED
from .table import Table, from_frame, varying

_PROBLEM = ["dtype", "batch", "pass", "layer"]


def frame(results: dict[str, Any]) -> pd.DataFrame:
    """The predicted cells, with `series`: kernels and layout in one name."""
    cells = pd.DataFrame(results["cells"])
    cells = cells[cells["failure"].isna()].copy()
    cells["series"] = cells["kernels"] + "_" + cells["layout"]
    order = cells["layer"].map({name: i for i, name in enumerate(results["layers"])})
    series = cells["series"].map({name: i for i, name in enumerate(PREDICTED)})
    return cells.assign(
        _pass=cells["pass"].map(PASS_ORDER), _layer=order, _series=series
    ).sort_values(["dtype", "batch", "_pass", "_layer", "_series"], kind="stable")


def fastest(cells: pd.DataFrame) -> pd.DataFrame:
    """Of each problem, the row of the least time."""
    return cells.loc[cells.groupby(_PROBLEM, sort=False)["time_us"].idxmin()]


def warnings(results: dict[str, Any]) -> list[str]:
    found = [
        "Predicted, not measured: nothing here has run on a GPU, and the formula's error is not "
        "known."
    ]
    if failures := [row for row in results["cells"] if row["failure"]]:
        found.append(f"{len(failures)} predictions failed, the first: {failures[0]['failure']}")
    if results["scope"] == "quick":
        found.append("A quick run: one layer per class.")
    return found + publication_note(results)


def findings(results: dict[str, Any]) -> list[str]:
    best = fastest(frame(results))
    found = []
    for (dtype, batch, pass_), group in best.groupby(["dtype", "batch", "pass"], sort=False):
        near = int((group["over_floor"] <= 1.25).sum())
        worst = group.loc[group["over_floor"].idxmax()]
        bounds = group["bound"].value_counts()
        shares = ", ".join(f"{name} {count}" for name, count in bounds.items())
        names = ", ".join(
            f"{PREDICTED[name][0]} {count}"
            for name, count in group["series"].value_counts().items()
        )
        found.append(
            f"{PASS_TITLES[pass_].capitalize()}, {dtype}, batch {batch}: the fastest kernel of "
            f"each layer takes {geomean(group['over_floor']):.2f}x the floor (geometric mean of "
            f"{len(group)} layers), {near} of them at most 1.25x; worst {worst['layer']} with "
            f"{worst['over_floor']:.3g}x. Bound by: {shares}. Fastest: {names}."
        )
    return found


def tables(results: dict[str, Any]) -> list[Table]:
    cells = frame(results)
    found = [_overall(cells), _by_class(cells)]
    for pass_ in sorted(set(cells["pass"]), key=PASS_ORDER.__getitem__):
        found.append(_layers(cells[cells["pass"] == pass_], PASS_TITLES[pass_]))
    return found


def _overall(cells: pd.DataFrame) -> Table:
    keys = ["dtype", "batch", "pass", "series"]
    table = cells.groupby(keys, sort=False).agg(
        layers=("layer", "nunique"),
        over_floor=("over_floor", geomean),
        best=("over_floor", "min"),
        worst=("over_floor", "max"),
        instructions=("instructions_per_output", geomean),
    )
    table = table.reset_index()
    table["series"] = table["series"].map(lambda name: PREDICTED[name][0])
    names = {
        "series": "kernels", "over_floor": "time / floor", "best": "best layer",
        "worst": "worst layer", "instructions": "instructions per output",
    }  # fmt: skip
    labels = [names.get(key, key) for key in varying(table, keys)]
    table = table.rename(columns=names)
    columns = [*labels, *(c for c in table.columns if c not in (*keys, "kernels"))]
    return from_frame(
        "Overall", table[columns], labels,
        note="Geometric means over the layers. Instructions of a lane, per pixel of the output (of "
        "the input, for its gradient).",
    )  # fmt: skip


def _by_class(cells: pd.DataFrame) -> Table:
    keys = ["dtype", "batch", "pass", "kind"]
    table = cells.pivot_table(
        index=keys, columns="series", values="over_floor", aggfunc=geomean, sort=False
    )
    table = table[[name for name in PREDICTED if name in table]]
    table.insert(0, "layers", cells.groupby(keys, sort=False)["layer"].nunique())
    table = table.rename(columns={name: PREDICTED[name][0] for name in PREDICTED}).reset_index()
    labels = varying(table, keys)
    rest = [column for column in table.columns if column not in keys]
    built = from_frame(
        "Time over the floor, by class", table[[*labels, *rest]], labels,
        note="Geometric means; k: kernel size, s: stride. 1: operands and result at the rate of a "
        "copy.",
    )  # fmt: skip
    for i, row in enumerate(table[rest[1:]].to_numpy()):
        built.best.add((i, len(labels) + 1 + int(row.argmin())))
    return built


def _layers(cells: pd.DataFrame, title: str) -> Table:
    names = {
        "series": "kernels", "bound": "bound by", "time_us": "time", "floor_us": "floor",
        "over_floor": "time / floor", "instructions_per_output": "instructions / output",
        "multiply_add_share": "FMA share", "registers": "registers", "occupancy": "occupancy",
    }  # fmt: skip
    table = cells.assign(series=cells["series"].map(lambda name: PREDICTED[name][0]))
    labels = [*varying(table, ["dtype", "batch"]), "layer", "series", "bound"]
    columns = [*labels, *(name for name in names if name not in ("series", "bound"))]
    table = table[columns].astype({"occupancy": float}).rename(columns=names)
    shown = [names.get(label, label) for label in labels]
    return from_frame(
        f"{title}: microseconds per layer", table, shown, detail=True,
        note="Registers and occupancy are those of the launch with the most instructions.",
    )  # fmt: skip


def setting(results: dict[str, Any]) -> list[tuple[str, str]]:
    ceilings = results["ceilings"]
    sources = ceilings["sources"]
    figures = {
        "Copy": (f"{ceilings['copy'] / 1e12:.2f} TB/s", "copy"),
        "L2": (f"{ceilings['l2'] / 1e12:.2f} TB/s, {ceilings['l2_bytes'] >> 20} MiB", "l2"),
        "Multiprocessors": (f"{ceilings['multiprocessors']}", "multiprocessors"),
        "Clock": (f"{ceilings['clock'] / 1e9:.3f} GHz", "clock"),
        "mma.sync": (f"{ceilings['mma'] / 1e12:.0f} TFLOP/s", "mma"),
    }
    return [
        ("Device", f"{ceilings['name']} (sm_{ceilings['capability']}), not there"),
        *((name, f"{text} ({sources[key]})") for name, (text, key) in figures.items()),
        (
            "Method",
            "effkern/prediction.py's formula. CUDA: the machine code's own control flow and "
            "addresses, run for a sample of each launch's blocks. Triton: machine code, grid and "
            "tile. docs/testing.md has both.",
        ),
        versions(results),
        commit(results),
        run(results),
    ]


def reproduce(results: dict[str, Any]) -> list[str]:
    build = "EFFKERN_BUILD_EMULATION=1 python setup.py build_ext --inplace"
    return [*checkout(results), build, " ".join(results["command"])]
