"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import findings
from .plots import Picture
from .tables import Table, build


def _table(table: Table) -> list[str]:
    alignment = ["---" if i < table.labels else "---:" for i in range(len(table.columns))]
    lines = [f"| {' | '.join(row)} |" for row in (table.columns, alignment)]
    for i, row in enumerate(table.rows):
        cells = [f"**{text}**" if (i, j) in table.best else text for j, text in enumerate(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *([table.note, ""] if table.note else [])]


def render(results: dict[str, Any], pictures: Sequence[Picture]) -> str:
    lines = [f"# effkern microbenchmark: {results['slug']}", ""]
    lines += [f"> **{warning}**\n" for warning in findings.warnings(results)]
    lines += ["## Findings", ""]
    lines += [f"- {finding}" for finding in findings.build(results)]
    lines += ["", "## Plots", ""]
    for picture in pictures:
        lines += [f"![{picture.title}]({picture.path.name})", "", picture.note, ""]
    lines += ["## Tables", ""]
    for table in build(results):
        lines += [f"### {table.title}", "", *_table(table)]
    lines += ["## Machine and method", ""]
    lines += [f"- {name}: {value}" for name, value in findings.setting(results)]
    lines += ["", "## Reproduce", "", "```", *findings.reproduce(results), "```", ""]
    return "\n".join(lines)
