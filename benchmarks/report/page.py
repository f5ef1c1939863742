"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from . import findings
from .plots import Picture
from .tables import build


def render(results: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """Findings first, then plots, tables, the machine, and how to reproduce."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    embedded = [
        {
            "title": picture.title,
            "note": picture.note,
            "data": base64.b64encode(picture.path.read_bytes()).decode(),
        }
        for picture in pictures
    ]
    return environment.get_template("page.html.j2").render(
        title=f"effkern microbenchmark: {results['slug']}",
        warnings=findings.warnings(results),
        findings=findings.build(results),
        pictures=embedded,
        tables=build(results),
        setting=findings.setting(results),
        commands=findings.reproduce(results),
    )
