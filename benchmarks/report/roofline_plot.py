"""The classic roofline: throughput over arithmetic intensity."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .. import analysis
from ..contenders import LABELS
from .style import PASS_TITLES, STYLES, legend_below

# Working sets whose bandwidth is drawn: the smallest and largest measured, and one between.
_LINE_STYLES = ("-", "--", ":")


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _ceilings(axis: Any, ceilings: dict[str, Any], intensity: np.ndarray) -> None:
    peak = ceilings["flops_per_second"] / 1e9
    axis.axhline(peak, color="black", linewidth=1.2)
    axis.text(intensity[-1], peak * 1.06, f"{peak:.0f} GFLOP/s", ha="right", fontsize=8)
    copies = ceilings["copies"]
    for (size, rate), style in zip(
        (copies[0], copies[len(copies) // 2], copies[-1]), _LINE_STYLES, strict=True
    ):
        line = np.minimum(intensity * rate / 1e9, peak)
        label = f"copy, {_bytes(size)}: {rate / 1e9:.0f} GB/s"
        axis.plot(intensity, line, style, color="#444444", linewidth=1, label=label)


def roofline(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    passes = sorted(set(cells["pass"]), key=analysis.PASS_ORDER.__getitem__)
    size = (1 + 4 * len(passes), 4.2)
    figure, axes = plt.subplots(1, len(passes), figsize=size, sharey=True, squeeze=False)
    cells = cells.assign(intensity=cells["flops"] / cells["bytes"])
    intensity = np.geomspace(cells["intensity"].min() / 1.6, cells["intensity"].max() * 1.6, 200)
    for pass_, axis in zip(passes, axes[0], strict=True):
        _ceilings(axis, results["ceilings"], intensity)
        for name, group in cells[cells["pass"] == pass_].groupby("contender", sort=False):
            if not (name in analysis.TORCH or analysis.is_effkern(name)):
                continue
            colour, marker = STYLES[name]
            axis.plot(
                group["intensity"], group["gflop_per_s"], marker,
                color=colour, label=LABELS[name], markersize=4.5, alpha=0.85,
            )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="FLOP per byte of operands and result")
        axis.set_title(PASS_TITLES[pass_])
    axes[0, 0].set_ylabel("GFLOP/s")
    legend_below(figure, columns=4)
    return figure
