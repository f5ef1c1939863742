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

from . import block_options, block_run, micro, predict, publish, report, workloads  # noqa: E402
from .contenders import PEERS  # noqa: E402
from .options import Options  # noqa: E402
from .problem import DTYPES, LAYOUTS, PASSES  # noqa: E402
from .report import terminal  # noqa: E402


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    run = command("micro", "Times every pass of the depthwise layers of real models.")
    add = run.add_argument
    add("--model", nargs="+", metavar="NAME", help=f"of {', '.join(workloads.models())}")
    add("--op", default="depthwise_conv2d", help="operator (default: %(default)s)")
    add("--pass", dest="passes", type=_words, help=f"of {','.join(PASSES)} (default: all)")
    add("--dtype", type=_words, help=f"of {','.join(DTYPES)} (default: float32)")
    add("--layout", type=_words, help=f"effkern's, of {','.join(LAYOUTS)} (default: both)")
    add("--peers", type=_words, help=f"default: {','.join(PEERS)}")
    add("--device", help="cpu or cuda (default: the best one)")
    add("--batch", type=_numbers, help="batch sizes (default: 1)")
    scope = run.add_mutually_exclusive_group()
    scope.add_argument("--quick", action="store_true", help="a smoke test: one layer a class")
    scope.add_argument("--full", action="store_true", help="all dtypes, batch 1 and 16 (hours)")
    add("--cold", action="store_true", help="CPU: operands rotate past the caches")
    add("--json", action="store_true", help="results on standard output")
    add("--output", type=Path, default=Path("results"), help="folder (default: %(default)s)")

    text = "Times the forward pass of the blocks of real models, on the CPU."
    block_options.add_arguments(command("blocks", text), _words)
    later = command("predict", "Predicts every pass of the layers on a GPU that is not there.")
    add = later.add_argument
    add("--model", nargs="+", metavar="NAME", help=f"of {', '.join(workloads.models())}")
    add("--pass", dest="passes", type=_words, help=f"of {','.join(PASSES)} (default: all)")
    add("--dtype", type=_words, help="default: bfloat16,float32")
    add("--layout", type=_words, help=f"of {','.join(LAYOUTS)} (default: both)")
    add("--batch", type=_numbers, help="batch sizes (default: 128)")
    add("--sm", type=int, help="compute capability, 80 (A100) or 90 (H200, the default)")
    add("--quick", action="store_true", help="one layer a class, none above 7x7")
    add("--json", action="store_true", help="results on standard output")
    add("--output", type=Path, default=Path("results"), help="folder (default: %(default)s)")

    render = command("report", "Renders results again from their JSON files.")
    render.add_argument("files", nargs="*", type=Path, help="default: results/*/*.json")
    publication = command("publish", "Copies results to benchmarks/results, to be committed.")
    publication.add_argument("folder", nargs="?", type=Path, help="default: the one in results")
    publication.add_argument("--force", metavar="NOTE", help="in spite of objections, and why")
    return top


def _options(arguments: argparse.Namespace) -> Options:
    full = {"dtypes": ["float32", "float16", "bfloat16"], "batches": [1, 16]}
    given: dict[str, Any] = {
        "models": arguments.model,
        "passes": arguments.passes,
        "dtypes": arguments.dtype or (full["dtypes"] if arguments.full else None),
        "layouts": arguments.layout,
        "peers": arguments.peers,
        "batches": arguments.batch or (full["batches"] if arguments.full else None),
        "device": arguments.device,
    }
    return Options(
        op=arguments.op,
        scope="quick" if arguments.quick else "full" if arguments.full else "default",
        cold=arguments.cold,
        output=arguments.output,
        **{name: value for name, value in given.items() if value is not None},
    )


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
    return _finish(micro.run(_options(arguments), console), arguments, console)


def _blocks(arguments: argparse.Namespace) -> int:
    console, options = _console(arguments), block_options.from_arguments(arguments)
    return _finish(block_run.run(options, console), arguments, console)


def _predict(arguments: argparse.Namespace) -> int:
    console = _console(arguments)
    given = {
        "models": arguments.model,
        "passes": arguments.passes,
        "dtypes": arguments.dtype,
        "layouts": arguments.layout,
        "batches": arguments.batch,
        "capability": arguments.sm,
    }
    options = predict.Options(
        quick=arguments.quick,
        output=arguments.output,
        **{name: value for name, value in given.items() if value is not None},
    )
    return _finish(predict.run(options, console), arguments, console)


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
    arguments = parser().parse_args(words)
    commands = {
        "micro": _micro,
        "blocks": _blocks,
        "predict": _predict,
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
