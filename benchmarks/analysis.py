"""Statistics over a results file. Every mean is geometric, every speed-up against the faster of
PyTorch's two layouts on the same problem in the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .contenders import LABELS

PROBLEM = ["dtype", "batch", "pass", "kind", "layer"]
TORCH = ["torch", "torch_channels_last"]
PASS_ORDER = {"fwd": 0, "dgrad": 1, "wgrad": 2, "fwd_bwd": 3}


def geomean(values: pd.Series) -> float:
    values = values.dropna()
    return float(np.exp(np.log(values).mean())) if len(values) else float("nan")


def frame(results: dict[str, Any]) -> pd.DataFrame:
    """The measured cells, refused ones left out, with `speedup` over torch's better layout."""
    cells = pd.DataFrame(results["cells"])
    cells = cells[cells["failure"].isna()].copy()
    torch_cells = cells[cells["contender"].isin(TORCH)]
    for column, speedup in (("median_us", "speedup"), ("p20_us", "speedup_p20")):
        best = torch_cells.groupby(PROBLEM)[column].min()
        yardstick = pd.Series(
            best.reindex(pd.MultiIndex.from_frame(cells[PROBLEM])).to_numpy(), cells.index
        )
        cells[speedup] = yardstick / cells[column]
    if "ranked" not in cells:
        # Only blocks have contenders that are nobody's best peer.
        cells["ranked"] = True
    order = cells["layer"].map({name: i for i, name in enumerate(results["layers"])})
    contenders = cells["contender"].map({name: i for i, name in enumerate(LABELS)})
    return cells.assign(
        _pass=cells["pass"].map(PASS_ORDER), _layer=order, _name=contenders
    ).sort_values(["dtype", "batch", "_pass", "_layer", "_name"], kind="stable")


def is_effkern(contender: str) -> bool:
    return contender.startswith("effkern")


def unranked(cells: pd.DataFrame) -> list[str]:
    """The contenders that are listed beside the others and are nobody's best peer."""
    return list(cells.loc[~cells["ranked"], "contender"].unique())


def is_compared(cells: pd.DataFrame) -> bool:
    """Whether torch took part, so that there are speed-ups."""
    return bool(cells["speedup"].notna().any())


def overall(cells: pd.DataFrame) -> pd.DataFrame:
    """Statistics per (dtype, batch, pass, contender), over the layers that it measured."""
    # Not everybody measures the first layer.
    cells = cells.sort_values(["dtype", "batch", "_pass", "_name"], kind="stable")
    groups = cells.groupby(["dtype", "batch", "pass", "contender"], sort=False)
    table = groups.agg(
        layers=("layer", "nunique"),
        over_roofline=("over_roofline", geomean),
        speedup=("speedup", geomean),
        speedup_p20=("speedup_p20", geomean),
        slowest=("speedup", "min"),
        fastest=("speedup", "max"),
    ).reset_index()
    return table


def by_kind(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Geometric means: a row per (dtype, batch, pass, class), a column per contender."""
    index = ["dtype", "batch", "pass", "kind"]
    table = cells.pivot_table(
        index=index, columns="contender", values=column, aggfunc=geomean, sort=False
    )
    counts = cells.groupby(index, sort=False)["layer"].nunique()
    table.insert(0, "layers", counts)
    return table.reset_index()


def group(kind: str) -> str:
    """The class that a layer's kernel size and stride belong to, such as "3x3 s1" or "k >= 13".

    Kinds of blocks are classes by themselves.
    """
    if not kind.startswith("k"):
        return kind
    size, stride = kind.split()
    kernel = max(int(side) for side in size[1:].split("x"))
    if kernel >= 13:
        return "k >= 13"
    square = size[1:] if "x" in size else f"{kernel}x{kernel}"
    return f"{square} {stride}" if kernel == 3 else square


def by_group(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Like `by_kind`, with the classes of `group` and, after them, "all"."""
    groups = cells.assign(kind=cells["kind"].map(group))
    everything = cells.assign(kind="all")
    table = pd.concat([by_kind(groups, column), by_kind(everything, column)])
    table["_pass"] = table["pass"].map(PASS_ORDER)
    table = table.sort_values(["dtype", "batch", "_pass"], kind="stable")
    return table.drop(columns="_pass").rename(columns={"kind": "class"})


def by_layer(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column's values: a row per problem, a column per contender."""
    table = cells.pivot_table(index=PROBLEM, columns="contender", values=column, sort=False)
    return table.reset_index()


def by_model(results: dict[str, Any], cells: pd.DataFrame) -> pd.DataFrame:
    """Time in all depthwise layers of each model (count times median), in microseconds.

    A contender that did not measure every layer of a model has no figure for it.
    """
    counts = pd.DataFrame(
        [
            {"layer": layer, "model": model, "count": count}
            for layer, uses in results["layers"].items()
            for model, count in uses.items()
        ]
    )
    merged = cells.merge(counts, on="layer")
    merged["floor"] = merged["floor_us"] * merged["count"]
    merged["time"] = merged["median_us"] * merged["count"]
    index = ["dtype", "batch", "model", "pass"]
    sums = merged.groupby([*index, "contender"], sort=False).agg(
        time=("time", "sum"), layers=("layer", "nunique"), floor=("floor", "sum")
    )
    wanted = counts.groupby("model")["layer"].nunique()
    complete = sums["layers"] == sums.index.get_level_values("model").map(wanted)
    sums = sums[complete].reset_index()
    table = sums.pivot_table(index=index, columns="contender", values="time", sort=False)
    table.insert(0, "roofline", sums.groupby(index)["floor"].max())
    table = table.reset_index().sort_values(index[:3], kind="stable")
    return table


def overhead(results: dict[str, Any]) -> pd.DataFrame:
    """Host microseconds of a tiny call: a row per (layout, mode), a column per contender."""
    table = pd.DataFrame(results["overhead"])
    return table.pivot_table(
        index=["layout", "mode"], columns="contender", values="median_us", sort=False
    ).reset_index()
