"""Renders a results file: terminal tables, Markdown, plots, and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import markdown, page, plots


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes <kind>.json, .md, .html and the plots into `folder`; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = results["kind"]
    data = folder / f"{kind}.json"
    data.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    pictures = plots.draw(results, folder)
    text = folder / f"{kind}.md"
    text.write_text(markdown.render(results, pictures))
    html = folder / f"{kind}.html"
    html.write_text(page.render(results, pictures))
    return [data, text, html, *(picture.path for picture in pictures)]


def read(path: Path) -> dict[str, Any]:
    """A results file.

    Raises:
        ValueError: it was not written by this version of the benchmarks.
    """
    results = json.loads(path.read_text())
    if results.get("schema") != 1:
        raise ValueError(f"{path}: wanted results of schema 1, got {results.get('schema')!r}")
    return results
