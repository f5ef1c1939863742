"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

# Kineto, which the memory measurements use, reports each missing GPU as an error.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
# Inductor's pool of compiler processes would start up beside the first measurements.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

from rich.console import Console  # noqa: E402

from . import block_options, block_run, counters, micro, predict, publish, report  # noqa: E402
from .command_line import given, parser  # noqa: E402
from .options import Options  # noqa: E402
from .report import terminal  # noqa: E402


def _console(arguments: argparse.Namespace) -> Console:
    # Standard output may be for JSON; what people read then goes beside it.
    console = Console(stderr=arguments.json)
    if not console.is_terminal:
        console.width = 140
    return console


def _finish(results: dict[str, Any], arguments: argparse.Namespace, console: Console) -> int:
    files = report.write(results, arguments.output / results["slug"])
    if arguments.json:
        json.dump(results, sys.stdout, indent=1)
        print()
    else:
        terminal.show(results, console)
    for file in files:
        console.print(f"wrote {file}", highlight=False)
    return 1 if results["failed"] else 0


def _micro(arguments: argparse.Namespace) -> int:
    console = _console(arguments)
    full = {"dtypes": ["float32", "float16", "bfloat16"], "batches": [1, 16]}
    names = ("models", "passes", "dtypes", "layouts", "peers", "batches", "device", "op", "cold")
    options = Options(
        scope="quick" if arguments.quick else "full" if arguments.full else "default",
        output=arguments.output,
        **{**(full if arguments.full else {}), **given(arguments, *names)},
    )
    return _finish(micro.run(options, console), arguments, console)


def _blocks(arguments: argparse.Namespace) -> int:
    console, options = _console(arguments), block_options.from_arguments(arguments)
    return _finish(block_run.run(options, console), arguments, console)


def _predict(arguments: argparse.Namespace) -> int:
    console = _console(arguments)
    names = ("models", "passes", "dtypes", "layouts", "batches", "capability", "quick", "output")
    options = predict.Options(**given(arguments, *names))
    return _finish(predict.run(options, console), arguments, console)


def _counters(arguments: argparse.Namespace) -> int:
    console = _console(arguments)
    names = ("models", "passes", "layouts", "batches", "output")
    options = Options(device="cpu", **given(arguments, *names))
    return _finish(counters.run(options, console), arguments, console)


def _report(arguments: argparse.Namespace) -> int:
    files = arguments.files or sorted(Path("results").glob("*/*.json"))
    if not files:
        raise FileNotFoundError("report: no results/*/*.json; run `make bench` first")
    for file in files:
        for path in report.write(report.read(file), file.parent):
            print(f"wrote {path}")
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    folders = [arguments.folder] if arguments.folder else sorted(Path("results").glob("*/"))
    if len(folders) != 1:
        names = ", ".join(map(str, folders)) or "none"
        raise ValueError(f"publish: wanted one folder of results, got {names}")
    for path in publish.publish(folders[0], note=arguments.force):
        print(f"wrote {path}")
    return 0


def main(words: list[str] | None = None) -> int:
    """Runs a command line, of this process unless given; returns its exit status."""
    arguments = parser(__doc__).parse_args(words)
    commands = {
        "micro": _micro,
        "blocks": _blocks,
        "predict": _predict,
        "counters": _counters,
        "report": _report,
        "publish": _publish,
    }
    try:
        return commands[arguments.command](arguments)
    except (ValueError, OSError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
