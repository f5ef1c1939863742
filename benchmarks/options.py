"""What a run of the microbenchmark covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from math import log2
from pathlib import Path
from typing import Any

import torch

from effkern import _library

from . import workloads
from .budget import CUDA, DEFAULT, FULL, QUICK, Budget
from .contenders import PEERS
from .problem import DTYPES, LAYOUTS, PASSES, Problem
from .workloads import Layer

# The most that a layer of a quick run may compute.
_QUICK_FLOPS = 1e8


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() and _library.has_cuda_kernels() else "cpu"


@dataclass
class Options:
    """The scope of a run; the defaults are those of ``make bench``."""

    models: list[str] = field(default_factory=workloads.models)
    op: str = "depthwise_conv2d"
    passes: list[str] = field(default_factory=lambda: list(PASSES))
    dtypes: list[str] = field(default_factory=lambda: ["float32"])
    layouts: list[str] = field(default_factory=lambda: list(LAYOUTS))
    peers: list[str] = field(default_factory=lambda: list(PEERS))
    batches: list[int] = field(default_factory=lambda: [1])
    device: str = field(default_factory=best_device)
    scope: str = "default"
    cold: bool = False
    output: Path = Path("results")

    def __post_init__(self) -> None:
        for model in self.models:
            workloads.load(model)
        _check("--op", [self.op], ["depthwise_conv2d"])
        _check("--pass", self.passes, PASSES)
        _check("--dtype", self.dtypes, list(DTYPES))
        _check("--layout", self.layouts, list(LAYOUTS))
        _check("--device", [self.device], ["cpu", "cuda"])
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device: cuda wanted, but torch.cuda.is_available() is False")
        if min(self.batches) < 1:
            raise ValueError(f"--batch: wanted positive numbers, got {min(self.batches)}")

    @property
    def budget(self) -> Budget:
        default = CUDA if self.device == "cuda" else DEFAULT
        budget = {"quick": QUICK, "default": default, "full": FULL}[self.scope]
        # Slow contenders reach their cap, so that batch 16 takes twice the time of batch 1.
        return replace(budget, total=budget.total * sum(1 + log2(n) / 4 for n in self.batches))

    @property
    def covers_default(self) -> bool:
        """Whether the run is at least what ``make bench`` does, so that it may be published."""
        return (
            self.scope != "quick"
            and set(self.models) == set(workloads.models())
            and set(self.passes) == set(PASSES)
            and "float32" in self.dtypes
            and set(self.layouts) == set(LAYOUTS)
            and 1 in self.batches
            and set(self.peers) == set(PEERS)
        )

    def layers(self) -> dict[Layer, dict[str, int]]:
        """The layers to measure and the models they occur in.

        A quick run takes one of each class, and none that keeps PyTorch busy for long.
        """
        found = workloads.distinct(self.models)
        if self.scope != "quick":
            return found
        light = [layer for layer in found if Problem(layer, "fwd").flops < _QUICK_FLOPS]
        return {layer: found[layer] for layer in one_per_kind(light).values()}

    def problems(self) -> Iterator[Problem]:
        """Every problem; one layer's dtypes one after the other, because they are compared."""
        for batch in self.batches:
            for layer in self.layers():
                for pass_ in self.passes:
                    for dtype in self.dtypes:
                        yield Problem(layer, pass_, dtype, batch, self.device)

    def compiles(self, problem: Problem) -> bool:
        """Whether torch.compile takes part: compiling costs seconds a problem."""
        if "torch.compile" not in self.peers or self.scope == "full":
            return "torch.compile" in self.peers
        sample = one_per_kind(list(self.layers()))
        return problem.pass_ == "fwd" and sample[problem.layer.kind] == problem.layer

    def to_json(self) -> dict[str, Any]:
        budget = asdict(self.budget)
        return asdict(self) | {"output": str(self.output), "budget_seconds": budget}


def one_per_kind(layers: list[Layer]) -> dict[str, Layer]:
    """For each class of kernel size and stride, its layer of middle size."""
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind, []).append(layer)
    return {
        kind: sorted(members, key=lambda layer: Problem(layer, "fwd").flops)[len(members) // 2]
        for kind, members in kinds.items()
    }


def largest_per_kind(layers: list[Layer]) -> list[Layer]:
    """For each class, the layer with the largest operands."""
    largest: dict[str, Layer] = {}
    for layer in sorted(layers, key=lambda layer: Problem(layer, "fwd").bytes):
        largest[layer.kind] = layer
    return sorted(largest.values())


def _check(option: str, got: list[str], known: list[str] | tuple[str, ...]) -> None:
    for value in got:
        if value not in known:
            raise ValueError(f"{option}: wanted one of {', '.join(known)}, got {value!r}")
