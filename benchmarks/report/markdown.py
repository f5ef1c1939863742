"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import document
from .plots import Picture
from .table import Table


def _table(table: Table) -> list[str]:
    alignment = ["---" if i < table.labels else "---:" for i in range(len(table.columns))]
    lines = [f"| {' | '.join(row)} |" for row in (table.columns, alignment)]
    for i, row in enumerate(table.rows):
        cells = [f"**{text}**" if (i, j) in table.best else text for j, text in enumerate(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *([table.note, ""] if table.note else [])]


def render(results: dict[str, Any], pictures: Sequence[Picture]) -> str:
    shown = document.build(results)
    lines = [f"# {shown.title}", ""]
    lines += [f"> **{warning}**\n" for warning in shown.warnings]
    lines += ["## Findings", ""]
    lines += [f"- {finding}" for finding in shown.findings]
    lines += ["", "## Plots", ""]
    for picture in pictures:
        lines += [f"![{picture.title}]({picture.path.name})", "", picture.note, ""]
    lines += ["## Tables", ""]
    for table in shown.tables:
        lines += [f"### {table.title}", "", *_table(table)]
    lines += ["## Machine and method", ""]
    lines += [f"- {name}: {value}" for name, value in shown.setting]
    lines += ["", "## Reproduce", "", "```", *shown.commands, "```", ""]
    return "\n".join(lines)
