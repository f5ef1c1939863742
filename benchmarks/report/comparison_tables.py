"""Tables of comparisons: with the best peer, with float32, with the goals."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import analysis, comparisons, goals, workloads
from ..contenders import LABELS
from .table import Table, from_frame, number, varying

_KEYS = ["dtype", "batch", "pass", "contender"]


def build(results: dict[str, Any], cells: pd.DataFrame) -> list[Table]:
    """Those that the run has the measurements for."""
    tables = []
    if not cells.loc[cells["ranked"], "contender"].map(analysis.is_effkern).all():
        tables.append(_best_peer(cells))
    if len(comparisons.half_summary(cells)):
        tables += [_half(cells), _half_by_layer(cells)]
    if results["machine"]["device"] == "cpu" and _is_whole(results):
        tables += _goals(cells)
    return tables


def _is_whole(results: dict[str, Any]) -> bool:
    """Whether the run has every layer, which the goals are means over."""
    return set(results["layers"]) == {
        layer.name for layer in workloads.distinct(workloads.models())
    }


def _best_peer(cells: pd.DataFrame) -> Table:
    data = comparisons.best_peer_summary(cells)
    data["contender"] = data["contender"].map(LABELS)
    labels = varying(data, _KEYS)
    names = {
        "mean": "times as fast", "worst": "worst layer", "worst_layer": "which",
        "peers": "best peers (layers)",
    }  # fmt: skip
    data = data[[*labels, "layers", *names]].rename(columns=names)
    beside = "".join(f" {LABELS[name]} is no best peer." for name in analysis.unranked(cells))
    return from_frame(
        "Against the best peer of each layer", data, labels,
        note="The fastest contender besides effkern on that very layer, of those in the run; for "
        f"gradients, PyTorch's better layout. Geometric means of its time over effkern's.{beside}",
    )  # fmt: skip


def _half(cells: pd.DataFrame) -> Table:
    data = comparisons.half_summary(cells)
    data["contender"] = data["contender"].map(LABELS)
    labels = ["dtype", *varying(data, ["batch"]), "pass", "contender"]
    names = {"mean": "16-bit / float32", "worst": "worst layer", "worst_layer": "which"}
    return from_frame(
        "16-bit time over effkern's own float32 time",
        data[[*labels, "layers", *names]].rename(columns=names), labels,
        note=f"Geometric means over the layers, and the layer with the highest ratio; at most "
        f"{goals.HALF_OVER_FLOAT32:g} is wanted everywhere.",
    )  # fmt: skip


def _half_by_layer(cells: pd.DataFrame) -> Table:
    data = comparisons.half_over_float32(cells)
    index = ["dtype", "batch", "pass", "layer"]
    table = data.pivot_table(index=index, columns="contender", values="over_float32", sort=False)
    labels = ["dtype", *varying(data, ["batch"]), "pass", "layer"]
    return from_frame(
        "16-bit time over effkern's own float32 time, by layer",
        table.reset_index()[[*labels, *table.columns]], labels, detail=True,
    )  # fmt: skip


def _against(value: float | None, goal: float | None, higher: bool) -> list[str]:
    if value is None:
        return ["", "", ""]
    if goal is None:
        return [number(value), "", ""]
    met = value >= goal if higher else value <= goal
    return [number(value), f"{'>=' if higher else '<='} {goal:g}", "yes" if met else "no"]


def _goals(cells: pd.DataFrame) -> list[Table]:
    """One table for each batch size that there are goals for."""
    float32 = cells[cells["dtype"] == "float32"]
    peers = {
        tuple(row[key] for key in _KEYS): row
        for row in comparisons.best_peer_summary(float32).to_dict("records")
    }
    means = analysis.overall(float32)
    means = means[means["contender"].map(analysis.is_effkern)]
    tables = []
    for batch, rows in means.groupby("batch", sort=False):
        if batch not in goals.OVER_ROOFLINE["fwd"]:
            continue
        text = []
        for row in rows.to_dict("records"):
            pass_ = row["pass"]
            peer = peers.get(tuple(row[key] for key in _KEYS), {})
            text.append(
                [pass_, LABELS[row["contender"]]]
                + _against(row["over_roofline"], goals.OVER_ROOFLINE[pass_][batch], higher=False)
                + _against(peer.get("mean"), goals.TIMES_AS_FAST[pass_], higher=True)
                + _against(peer.get("worst"), goals.WORST_LAYER.get(pass_), higher=True)
            )
        columns = ["pass", "contender"]
        for measured in ("time / roofline", "times as fast", "worst layer"):
            columns += [measured, "goal", "met"]
        note = "Geometric means over the 37 layers; times as fast: as the best peer of each layer."
        tables.append(Table(f"Goals, float32, batch {batch}", columns, text, note, labels=2))
    return tables
