"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from . import document
from .plots import Picture


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
    shown = document.build(results)
    return environment.get_template("page.html.j2").render(
        title=shown.title,
        warnings=shown.warnings,
        findings=shown.findings,
        pictures=embedded,
        tables=shown.tables,
        setting=shown.setting,
        commands=shown.commands,
    )
