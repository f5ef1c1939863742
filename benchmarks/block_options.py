"""What a run of the benchmark of blocks covers, and its options on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .block_contenders import PEERS
from .block_workloads import MODELS, BlockLayer, distinct
from .budget import DEFAULT, QUICK, Budget


@dataclass
class Options:
    """The scope of a run."""

    models: list[str] = field(default_factory=lambda: list(MODELS))
    peers: list[str] = field(default_factory=lambda: list(PEERS))
    batches: list[int] = field(default_factory=lambda: [1])
    quick: bool = False
    full: bool = False
    output: Path = Path("results")

    @property
    def budget(self) -> Budget:
        return QUICK if self.quick else DEFAULT

    def layers(self) -> dict[BlockLayer, dict[str, int]]:
        found = distinct(self.models)
        if not self.quick:
            return found
        first = {layer.kind: layer for layer in sorted(found, key=lambda x: -x.shape[0])}
        return {layer: found[layer] for layer in first.values()}


def add_arguments(parser: argparse.ArgumentParser, words: Callable[[str], list[str]]) -> None:
    """The options of `python -m benchmarks blocks`; `words` splits a list."""
    add = parser.add_argument
    add("--model", nargs="+", metavar="NAME", help=f"of timm (default: {', '.join(MODELS)})")
    add("--peers", type=words, help=f"default: {','.join(PEERS)}")
    add("--batch", type=lambda text: [int(word) for word in words(text)], help="default: 1")
    add("--quick", action="store_true", help="a smoke test: one block a class")
    add("--full", action="store_true", help="torch.compile on every block (hours)")
    add("--json", action="store_true", help="results on standard output")
    add("--output", type=Path, default=Path("results"), help="folder (default: %(default)s)")


def from_arguments(arguments: argparse.Namespace) -> Options:
    given: dict[str, Any] = {
        "models": arguments.model,
        "peers": arguments.peers,
        "batches": arguments.batch,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Options(**given, quick=arguments.quick, full=arguments.full, output=arguments.output)
