"""Copies a run into benchmarks/results/<device>, which is committed, if it deserves that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import report

PUBLISHED = Path(__file__).parent / "results"


def objections(results: dict[str, Any]) -> list[str]:
    """Why a run should not be published; empty if it may be."""
    found = []
    if results["failed"]:
        found.append("a result was wrong or a contender raised an error")
    if not results["machine"]["native_library"]:
        found.append("effkern's native library was missing")
    if not results["covers_default"]:
        found.append("it covers less than the default scope")
    if results["commit"]["sha"] is None:
        found.append("it was not made from a git checkout")
    elif results["commit"]["dirty"]:
        found.append("the checkout had uncommitted changes")
    return found


def publish(source: Path, target: Path = PUBLISHED, note: str | None = None) -> list[Path]:
    """Publishes the results in folder `source` (results/<device>); returns the files written.

    Args:
        note: publishes in spite of objections, and says so with this note in every report.

    Raises:
        FileNotFoundError: there are no results in `source`.
        ValueError: there are objections and no note.
    """
    files = sorted(source.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"publish: no results in {source}; run `make bench` first")
    runs = [report.read(file) for file in files]
    for file, results in zip(files, runs, strict=True):
        against = objections(results)
        if against and not note:
            raise ValueError(
                f"publish: {file}: {'; '.join(against)}. To publish it all the same, give a "
                "reason with --force"
            )
        if against:
            results["published"] = {"note": f"{note} ({'; '.join(against)})"}
    return [path for results in runs for path in report.write(results, target / results["slug"])]
