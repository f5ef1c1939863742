"""effkern against the best peer of each layer, and its 16-bit times against its own float32."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .analysis import PROBLEM, geomean, is_effkern
from .contenders import LABELS
from .peers import REQUIRED

# The other columns than dtype of a problem.
_TWIN = [column for column in PROBLEM if column != "dtype"]


def has_runtimes(cells: pd.DataFrame) -> bool:
    """Whether others than PyTorch and effkern were measured that may be the best peer."""
    return bool(set(cells.loc[cells["ranked"], "contender"]) & set(REQUIRED))


def against_best_peer(cells: pd.DataFrame) -> pd.DataFrame:
    """effkern's cells, with the fastest other contender of the same problem that is ranked.

    Adds `peer` (its name) and `times_as_fast`, its median over effkern's.
    """
    theirs = cells[cells["ranked"] & ~cells["contender"].map(is_effkern)]
    best = theirs.loc[theirs.groupby(PROBLEM)["median_us"].idxmin(), [*PROBLEM, "contender"]]
    best = best.assign(peer_us=theirs["median_us"]).rename(columns={"contender": "peer"})
    ours = cells[cells["contender"].map(is_effkern)].merge(best, on=PROBLEM)
    return ours.assign(times_as_fast=ours["peer_us"] / ours["median_us"])


def half_over_float32(cells: pd.DataFrame) -> pd.DataFrame:
    """effkern's 16-bit cells, with `over_float32`, the time over its own float32 time."""
    ours = cells[cells["contender"].map(is_effkern)]
    key = [*_TWIN, "contender"]
    float32 = ours.loc[ours["dtype"] == "float32", [*key, "median_us"]]
    half = ours[ours["dtype"].isin(["float16", "bfloat16"])]
    both = half.merge(float32, on=key, suffixes=("", "_float32"))
    return both.assign(over_float32=both["median_us"] / both["median_us_float32"])


def _winners(group: pd.DataFrame) -> str:
    counts = group["peer"].map(LABELS).value_counts()
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _summary(cells: pd.DataFrame, column: str, worst: str) -> pd.DataFrame:
    """Per (dtype, batch, pass, contender): layers, mean, worst and worst_layer of a column.

    Args:
        worst: "idxmin" or "idxmax".
    """
    rows: list[dict[str, Any]] = []
    keys = ["dtype", "batch", "pass", "contender"]
    for values, group in cells.groupby(keys, sort=False):
        place = getattr(group[column], worst)()
        row = dict(zip(keys, values, strict=True)) | {
            "layers": len(group),
            "mean": geomean(group[column]),
            "worst": group.loc[place, column],
            "worst_layer": group.loc[place, "layer"],
        }
        rows.append(row | ({"peers": _winners(group)} if "peer" in group else {}))
    return pd.DataFrame(rows)


def best_peer_summary(cells: pd.DataFrame) -> pd.DataFrame:
    """The summary of `times_as_fast`, with `peers`: who was how often the best."""
    return _summary(against_best_peer(cells), "times_as_fast", "idxmin")


def half_summary(cells: pd.DataFrame) -> pd.DataFrame:
    """The summary of `over_float32`; empty without 16-bit and float32 cells of one run."""
    return _summary(half_over_float32(cells), "over_float32", "idxmax")
