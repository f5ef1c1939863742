"""The plots of a report, as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from .. import analysis, comparisons  # noqa: E402
from ..contenders import LABELS  # noqa: E402
from . import counted, counted_plots, findings, layer_plots, predicted, predicted_plots  # noqa: E402
from .roofline_plot import roofline  # noqa: E402
from .style import PASS_TITLES, SETTINGS, STYLES, legend_below  # noqa: E402


@dataclass(frozen=True)
class Picture:
    path: Path
    title: str
    note: str


def summary(results: dict[str, Any], cells: pd.DataFrame) -> Any:
    """Bars of the mean speed-up of each class, one panel per pass."""
    ours = cells[cells["contender"].map(analysis.is_effkern)]
    passes = sorted(set(ours["pass"]), key=analysis.PASS_ORDER.__getitem__)
    size = (1 + 3.4 * len(passes), 1.4 + 0.34 * ours["kind"].nunique())
    figure, axes = plt.subplots(1, len(passes), figsize=size, squeeze=False)
    for pass_, axis in zip(passes, axes[0], strict=True):
        table = analysis.by_kind(ours[ours["pass"] == pass_], "speedup")
        names = [name for name in STYLES if name in table]
        for i, name in enumerate(names):
            places = [y + (i + 0.5 - len(names) / 2) * 0.4 for y in range(len(table))]
            axis.barh(places, table[name], 0.4, color=STYLES[name][0], label=LABELS[name])
            for y, value in zip(places, table[name], strict=True):
                axis.text(value, y, f" {value:.1f}", va="center", fontsize=7)
        axis.set_yticks(range(len(table)), table["kind"])
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.axvline(1, color="black", linewidth=1)
        axis.grid(visible=False, axis="y")
        axis.set_title(PASS_TITLES[pass_])
        axis.set_xlabel("times as fast as PyTorch")
    legend_below(figure, columns=2)
    return figure


_PLOTS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "summary": (
        summary,
        "Speed-up over PyTorch's better layout, by class",
        "Geometric means over the layers of a class; k: kernel size, s: stride.",
    ),
    "speedup": (
        layer_plots.speedup,
        "Speed-up over PyTorch's better layout, by layer",
        "Layers: channels@size, kernel size, stride; at 1x both are equally fast.",
    ),
    "best-peer": (
        layer_plots.best_peer,
        "Forward speed-up over the best peer, by layer",
        "The fastest contender besides effkern on that very layer; its mark stands at the bottom.",
    ),
    "over-roofline": (
        layer_plots.over_roofline,
        "Time over the roofline, by layer",
        "1x is the least time that the ceilings measured in the same run allow.",
    ),
    "roofline": (
        roofline,
        "Roofline",
        "PyTorch and effkern; each marker is a layer; the lines are the ceilings measured in the "
        "same run, copies over working sets of three sizes.",
    ),
}


_PREDICTED_PLOTS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "over-floor": (
        predicted_plots.over_floor,
        "Predicted time over the floor, by layer",
        "Nothing here was measured. The floor: operands and result once, at the rate of a copy.",
    ),
    "instructions": (
        predicted_plots.instructions,
        "Executed instructions per output, by layer",
        "Of a lane, all launches of a call, from the machine code.",
    ),
}


_COUNTED_PLOTS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "cycles": (
        counted_plots.cycles,
        "Cycles per vector of multiply-adds, by layer",
        "One thread, without PyTorch and without what a call costs.",
    ),
    "instructions": (
        counted_plots.instructions,
        "Executed instructions per vector of multiply-adds, by layer",
        "Counted by valgrind's callgrind.",
    ),
    "misses": (
        counted_plots.misses,
        "L1 misses per cache line of the tensors, by layer",
        "In callgrind's model of this machine's L1 cache, which has no prefetcher.",
    ),
}
# Of each kind of results: the cells as a frame, what to warn of, and the plots.
_KINDS: dict[str, tuple[Callable[..., Any], Callable[..., list[str]], dict[str, Any]]] = {
    "micro": (analysis.frame, findings.warnings, _PLOTS),
    "blocks": (analysis.frame, findings.warnings, _PLOTS),
    "predicted": (predicted.frame, predicted.warnings, _PREDICTED_PLOTS),
    "counters": (counted.frame, counted.warnings, _COUNTED_PLOTS),
}


def _has(name: str, cells: pd.DataFrame) -> bool:
    """Whether there are the measurements for a plot."""
    if name == "best-peer":
        return comparisons.has_runtimes(cells[cells["pass"] == "fwd"])
    return name not in ("summary", "speedup") or analysis.is_compared(cells)


def draw(results: dict[str, Any], folder: Path) -> list[Picture]:
    """Draws every plot for every dtype and batch size; returns them in the order to show."""
    pictures = []
    frame, warnings, plots = _KINDS[results["kind"]]
    groups = list(frame(results).groupby(["dtype", "batch"], sort=False))
    warned = warnings(results)
    for (dtype, batch), cells in groups:
        for name, (plot, title, note) in plots.items():
            if plots is _PLOTS and not _has(name, cells):
                continue
            suffix = f"-{dtype}-b{batch}" if len(groups) > 1 else ""
            path = folder / f"{results['kind']}-{name}{suffix}.png"
            heading = f"{title} ({dtype}, batch {batch}, {results['slug']})"
            with plt.rc_context(SETTINGS):
                figure = plot(results, cells)
                # What a run must be warned of goes wherever its pictures go.
                text = "\n".join([heading, *(warning[:110] for warning in warned)])
                figure.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
                figure.savefig(path)
                plt.close(figure)
            pictures.append(Picture(path, heading, note))
    return pictures
