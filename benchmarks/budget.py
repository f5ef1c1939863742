"""How long the benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How long to measure; seconds.

    Attributes:
        rounds: turns that each contender gets.
        block: what one turn should take.
        cap: what all turns of one contender on one problem may take; later rounds are dropped.
        total: what all problems may take; on a busy machine, rounds are dropped to keep to it.
    """

    rounds: int
    block: float
    cap: float
    total: float


DEFAULT = Budget(rounds=11, block=0.025, cap=2.0, total=420.0)
# A GPU's times spread less, and its minutes are dear.
CUDA = Budget(rounds=5, block=0.01, cap=1.0, total=240.0)
QUICK = Budget(rounds=3, block=0.004, cap=0.2, total=60.0)
FULL = Budget(rounds=15, block=0.04, cap=5.0, total=float("inf"))
