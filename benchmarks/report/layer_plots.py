"""Plots with one place per layer: speed-ups, and time over the roofline."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .. import analysis, comparisons
from ..contenders import LABELS
from .style import PASS_TITLES, STYLES, legend_below, times


def _log_axis(axis: Any) -> None:
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    # Over many decades the steps between them are too many to label.
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(times))
    axis.yaxis.set_minor_locator(NullLocator())


def _panels(cells: pd.DataFrame, height: float) -> tuple[Any, list[tuple[Any, pd.DataFrame]]]:
    """One axis per pass, one below the other, over the same layers, which share the bottom's names.

    The frames hold the layers' places in column `x`.
    """
    passes = sorted(set(cells["pass"]), key=analysis.PASS_ORDER.__getitem__)
    layers = list(dict.fromkeys(cells.sort_values("_layer")["layer"]))
    size = (max(8.0, 2.2 + 0.27 * len(layers)), 1.8 + height * len(passes))
    figure, axes = plt.subplots(len(passes), figsize=size, sharex=True, squeeze=False)
    panels = []
    for pass_, axis in zip(passes, axes[:, 0], strict=True):
        panel = cells[cells["pass"] == pass_]
        panels.append((axis, panel.assign(x=panel["layer"].map(layers.index))))
        axis.set_title(PASS_TITLES[pass_])
        axis.set_xlim(-0.7, len(layers) - 0.3)
        axis.set_xticks(range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor")
    return figure, panels


def over_roofline(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    figure, panels = _panels(cells, 2.6)
    for axis, panel in panels:
        for name, group in panel.groupby("contender", sort=False):
            colour, marker = STYLES[name]
            ours = analysis.is_effkern(name)
            axis.plot(
                group["x"],
                group["over_roofline"],
                marker,
                color=colour,
                label=LABELS[name],
                markersize=6.5 if ours else 4.5,
                zorder=2 if ours else 3,
            )
        _log_axis(axis)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_ylabel("time / roofline time")
    legend_below(figure, columns=5)
    return figure


def _bars(panels: list[tuple[Any, pd.DataFrame]], column: str) -> None:
    """Bars of a factor, up and down from 1, one per contender."""
    for axis, panel in panels:
        groups = list(panel.groupby("contender", sort=False))
        means = []
        for i, (name, group) in enumerate(groups):
            places = group["x"] + (i + 0.5 - len(groups) / 2) * 0.4
            height = group[column] - 1
            axis.bar(places, height, 0.4, bottom=1, color=STYLES[name][0], label=LABELS[name])
            means.append(f"{LABELS[name]} {analysis.geomean(group[column]):.2f}x")
        axis.set_title(f"geometric mean: {', '.join(means)}", loc="right", fontweight="normal")
        _log_axis(axis)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_ylabel("speed-up")


def speedup(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    figure, panels = _panels(cells[cells["contender"].map(analysis.is_effkern)], 2.3)
    _bars(panels, "speedup")
    legend_below(figure, columns=2)
    return figure


def best_peer(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    """Like `speedup`, over the best peer, whose mark stands below each layer; forward only."""
    ours = comparisons.against_best_peer(cells[cells["pass"] == "fwd"])
    figure, panels = _panels(ours, 2.8)
    _bars(panels, "times_as_fast")
    for axis, panel in panels:
        low = axis.get_ylim()[0]
        for peer, group in panel.drop_duplicates("layer").groupby("peer", sort=False):
            colour, marker = STYLES[peer]
            places = [low * 0.9] * len(group)
            label = f"best peer: {LABELS[peer]}"
            axis.plot(group["x"], places, marker, color=colour, label=label, clip_on=False)
        axis.set_ylim(low * 0.8)
    legend_below(figure, columns=4)
    return figure
