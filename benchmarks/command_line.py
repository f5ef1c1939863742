"""The options of the benchmarks' commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import block_workloads, workloads
from .contenders import PEERS
from .problem import DTYPES, LAYOUTS, PASSES


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def _run(add: Any, models: str, batch: str) -> None:
    """What every command that measures or counts can be told."""
    add("--model", dest="models", nargs="+", metavar="NAME", help=models)
    add("--batch", dest="batches", type=_numbers, help=f"batch sizes (default: {batch})")
    add("--json", action="store_true", help="results on standard output")
    add("--output", type=Path, default=Path("results"), help="folder (default: %(default)s)")


def _layers(add: Any, batch: str) -> None:
    """What those that run layers can be told."""
    _run(add, f"of {', '.join(workloads.models())}", batch)
    add("--pass", dest="passes", type=_words, help=f"of {','.join(PASSES)} (default: all)")
    add(
        "--layout", dest="layouts", type=_words,
        help=f"effkern's, of {','.join(LAYOUTS)} (default: both)",
    )  # fmt: skip


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options `names`, without those that were not given."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def parser(description: str | None) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    run = command("micro", "Times every pass of the depthwise layers of real models.")
    add = run.add_argument
    _layers(add, "1")
    add("--op", default="depthwise_conv2d", help="operator (default: %(default)s)")
    add("--dtype", dest="dtypes", type=_words, help=f"of {','.join(DTYPES)} (default: float32)")
    add("--peers", type=_words, help=f"default: {','.join(PEERS)}")
    add("--device", help="cpu or cuda (default: the best one)")
    scope = run.add_mutually_exclusive_group()
    scope.add_argument("--quick", action="store_true", help="a smoke test: one layer a class")
    scope.add_argument("--full", action="store_true", help="all dtypes, batch 1 and 16 (hours)")
    add("--cold", action="store_true", help="CPU: operands rotate past the caches")

    add = command(
        "blocks", "Times the forward pass of the blocks of real models, on the CPU."
    ).add_argument
    _run(add, f"of timm (default: {', '.join(block_workloads.MODELS)})", "1")
    add("--peers", type=_words, help=f"default: {','.join(PEERS)}")
    add("--quick", action="store_true", help="a smoke test: one block a class")
    add("--full", action="store_true", help="torch.compile on every block (hours)")

    add = command(
        "predict", "Predicts every pass of the layers on a GPU that is not there."
    ).add_argument
    _layers(add, "128")
    add("--dtype", dest="dtypes", type=_words, help="default: bfloat16,float32")
    add(
        "--sm", dest="capability", type=int,
        help="compute capability, 80 (A100) or 90 (H200, the default)",
    )  # fmt: skip
    add("--quick", action="store_true", help="one layer a class, none above 7x7")

    counters = command("counters", "Counts what the CPU kernels execute, under valgrind.")
    _layers(counters.add_argument, "1")

    render = command("report", "Renders results again from their JSON files.")
    render.add_argument("files", nargs="*", type=Path, help="default: results/*/*.json")
    publication = command("publish", "Copies results to benchmarks/results, to be committed.")
    publication.add_argument("folder", nargs="?", type=Path, help="default: the one in results")
    publication.add_argument("--force", metavar="NOTE", help="in spite of objections, and why")
    return top
