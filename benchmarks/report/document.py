"""What a report says, whatever it is rendered as; one function for each kind of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import counted, findings, predicted, setting, tables
from .table import Table


@dataclass
class Document:
    title: str
    warnings: list[str]
    findings: list[str]
    tables: list[Table]
    setting: list[tuple[str, str]]
    commands: list[str]


def _measured(results: dict[str, Any]) -> Document:
    what = "blocks" if results["kind"] == "blocks" else "microbenchmark"
    return Document(
        f"effkern {what}: {results['slug']}",
        findings.warnings(results),
        findings.build(results),
        tables.build(results),
        setting.facts(results),
        setting.reproduce(results),
    )


def _predicted(results: dict[str, Any]) -> Document:
    return Document(
        f"effkern, predicted times: {results['slug']}",
        predicted.warnings(results),
        predicted.findings(results),
        predicted.tables(results),
        predicted.setting(results),
        predicted.reproduce(results),
    )


def _counters(results: dict[str, Any]) -> Document:
    return Document(
        f"effkern, what the CPU kernels execute: {results['slug']}",
        counted.warnings(results),
        counted.findings(results),
        counted.tables(results),
        counted.setting(results),
        counted.reproduce(results),
    )


_KINDS: dict[str, Callable[[dict[str, Any]], Document]] = {
    "micro": _measured,
    "blocks": _measured,
    "predicted": _predicted,
    "counters": _counters,
}


def build(results: dict[str, Any]) -> Document:
    return _KINDS[results["kind"]](results)
