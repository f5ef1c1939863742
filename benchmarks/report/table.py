"""A table as text cells; terminal, Markdown and HTML lay out the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

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


def from_frame(
    title: str, data: pd.DataFrame, labels: Sequence[str], note: str = "", lowest: bool = False,
    detail: bool = False, unranked: Sequence[str] = (),
) -> Table:  # fmt: skip
    """A row per row of `data`; `lowest` marks the lowest of the contenders in each, `unranked`
    ones aside."""
    numbers = [column for column in data.columns if column not in labels]
    rows, best = [], set()
    contenders = [column for column in numbers if column in LABELS and column not in unranked]
    for i, record in enumerate(data.to_dict("records")):
        rows.append([str(record[k]) for k in labels] + [number(record[k]) for k in numbers])
        measured = [k for k in contenders if not pd.isna(record[k])]
        if lowest and measured:
            winner = min(measured, key=record.__getitem__)
            best.add((i, len(labels) + numbers.index(winner)))
    names = [LABELS.get(column, column) for column in numbers]
    return Table(title, [*labels, *names], rows, note, len(labels), best, detail)


def varying(data: pd.DataFrame, labels: list[str]) -> list[str]:
    """Labels, without dtype and batch where there is only one."""
    return [k for k in labels if k not in ("dtype", "batch") or data[k].nunique() > 1]
