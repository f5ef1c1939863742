"""Plots of predicted times: a place per layer, a panel per pass."""

from __future__ import annotations

from typing import Any

import pandas as pd

from effkern.prediction import EFFICIENCY, Ceilings

from .layer_plots import _log_axis, _panels
from .style import PREDICTED, legend_below

_ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}


def _draw(cells: pd.DataFrame, column: str, label: str, line: float, line_label: str) -> Any:
    figure, panels = _panels(cells, 2.7)
    for axis, panel in panels:
        for name, (text, colour, marker) in PREDICTED.items():
            group = panel[panel["series"] == name]
            if len(group):
                axis.plot(group["x"], group[column], marker, color=colour, label=text, markersize=5)
        axis.axhline(line, color="black", linewidth=1, label=line_label)
        _log_axis(axis)
        axis.set_ylabel(label)
    legend_below(figure, columns=3)
    return figure


def over_floor(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    return _draw(cells, "over_floor", "time / floor", 1.0, "floor")


def instructions(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    """With the number at which issuing takes as long as one load and one store per output."""
    ceilings = Ceilings(**results["ceilings"])
    moved = 2 * _ITEMSIZE[cells["dtype"].iloc[0]]
    most = EFFICIENCY * ceilings.issue * moved / ceilings.copy
    label = f"{most:.0f}: as long as the floor (stride 1)"
    figure = _draw(cells, "instructions_per_output", "instructions / output", most, label)
    for axis in figure.axes:
        axis.yaxis.set_major_formatter("{x:,.0f}")
    return figure
