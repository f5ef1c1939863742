"""Plots of what the CPU kernels execute: a place per layer, a panel per pass."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..contenders import LABELS
from .layer_plots import _log_axis, _panels
from .style import STYLES, legend_below


def _draw(cells: pd.DataFrame, column: str, label: str, line: float, line_label: str) -> Any:
    figure, panels = _panels(cells, 2.3)
    for axis, panel in panels:
        for name, group in panel.groupby("contender", sort=False):
            colour, marker = STYLES[name]
            axis.plot(
                group["x"], group[column], marker, color=colour, label=LABELS[name], markersize=6
            )
        axis.axhline(line, color="black", linewidth=1, label=line_label)
        _log_axis(axis)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylabel(label)
    legend_below(figure, columns=3)
    return figure


def cycles(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    return _draw(cells, "cycles", "cycles / vector", 0.5, "two multiply-adds in each cycle")


def instructions(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    return _draw(cells, "per_vector", "instructions / vector", 1.0, "multiply-adds only")


def misses(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    return _draw(cells, "l1", "L1 misses / line", 1.0, "each line once")
