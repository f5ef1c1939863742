"""The report in the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from . import document
from .table import Table


def _show(table: Table, console: Console) -> None:
    rich_table = RichTable(
        title=table.title, caption=table.note or None, title_justify="left", box=SIMPLE_HEAD,
        pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    for index, column in enumerate(table.columns):
        is_label = index < table.labels
        # A narrow terminal breaks a figure, and never cuts it.
        rich_table.add_column(
            column, justify="left" if is_label else "right", no_wrap=is_label, overflow="fold"
        )
    previous: list[str] = []
    for i, row in enumerate(table.rows):
        # A label that repeats the row above says nothing.
        shown = list(row)
        for j in range(table.labels - 1):
            if previous[: j + 1] == row[: j + 1]:
                shown[j] = ""
        for j in range(len(row)):
            if (i, j) in table.best:
                shown[j] = f"[bold green]{shown[j]}[/]"
        rich_table.add_row(*shown)
        previous = row
    console.print(rich_table)


def show(results: dict[str, Any], console: Console) -> None:
    """Prints all tables, the details first, so that the summary stays in view."""
    shown = document.build(results)
    for table in sorted(shown.tables, key=lambda table: not table.detail):
        _show(table, console)
        console.print()
    for finding in shown.findings:
        console.print(f"- {finding}")
