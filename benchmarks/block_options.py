"""What a run of the benchmark of blocks covers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from .block_workloads import MODELS, BlockLayer, distinct
from .budget import DEFAULT, QUICK, Budget
from .command_line import given
from .contenders import PEERS


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


def from_arguments(arguments: argparse.Namespace) -> Options:
    return Options(**given(arguments, "models", "peers", "batches", "quick", "full", "output"))
