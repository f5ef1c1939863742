"""Interleaved timing on the CPU.

Contenders take turns, block by block (A B C A B C ...), so that a slow phase of the machine meets
them all. A block warms up, then times single calls. Reported are the median over the rounds of each
block's median, and the same of each block's 20th percentile, which other processes disturb less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from . import blocks
from .binding_ceiling import BindingCeiling
from .blocks import Block, Call, probe
from .budget import Budget

# Rounds that are run however late it is, unless the contender reaches its cap.
_MIN_ROUNDS = 3
# How often a block that had to wait for a core is repeated.
_REPEATS = 2


@dataclass
class Timed:
    """A contender's calls for one problem, over copies of the operands, and where to make them.

    Attributes:
        process: what tells the contender's process from others; None is this one.
        failure: what a call raised while it was timed, which ends the contender's rounds.
    """

    calls: Sequence[Call]
    context: Callable[[], AbstractContextManager[None]]
    process: object = None
    medians: list[float] = field(default_factory=list)
    percentiles: list[float] = field(default_factory=list)
    fastest: float = float("inf")
    timed_calls: int = 0
    page_faults: int = 0
    disturbed: int = 0
    spent: float = 0.0
    capped: str | None = None
    failure: str | None = None

    def probe(self) -> float:
        with self.context():
            return probe(self.calls)

    def block(self, count: int, guess: float) -> Block:
        with self.context():
            return blocks.block(self.calls, count, guess)

    def rest(self) -> None:
        """Returns when the threads of the contender's process sleep."""
        blocks.rest()

    def add(self, measured: Block) -> None:
        self.disturbed += measured.disturbed
        self.medians.append(median(measured.seconds))
        self.percentiles.append(measured.seconds[len(measured.seconds) // 5])
        self.fastest = min(self.fastest, measured.seconds[0])
        self.timed_calls += len(measured.seconds)
        self.page_faults += measured.page_faults

    def summary(self) -> dict[str, float | int | str | None]:
        """Times in microseconds."""
        return {
            "median_us": median(self.medians) * 1e6,
            "p20_us": median(self.percentiles) * 1e6,
            "min_us": self.fastest * 1e6,
            "spread": max(self.medians) / min(self.medians),
            "rounds": len(self.medians),
            "calls": self.timed_calls,
            "page_faults": self.page_faults / max(self.timed_calls, 1),
            "disturbed_rounds": self.disturbed,
            "capped": self.capped,
        }


@contextmanager
def quiet() -> Iterator[None]:
    """No gradients recorded and no garbage collection."""
    with blocks.no_garbage_collection(), torch.no_grad():
        yield


def _round(timed: Timed, count: int, guess: float) -> None:
    start = time.perf_counter()
    for _ in range(1 + _REPEATS):
        measured = timed.block(count, guess)
        if not measured.disturbed:
            break
    timed.spent += time.perf_counter() - start
    timed.add(measured)


def _guess(timed: Timed, budget: Budget) -> tuple[int, float]:
    """How many calls make a block, and how long one takes."""
    guess = timed.probe()
    # A call that takes longer than a block is still timed, once a round.
    least = 1 if guess > budget.block else 3
    return min(max(int(budget.block / guess), least), 500), guess


def interleaved(
    contenders: dict[str, Timed],
    budget: Budget,
    seconds: float,
    ceiling: BindingCeiling | None = None,
) -> None:
    """Fills in all measurements, those of the ceiling too; `seconds` is this problem's share of
    time."""
    counts: dict[str, tuple[int, float]] = {}
    end, previous = time.perf_counter() + seconds, None
    with quiet():
        # Before the first round, one that only learns how long a call takes.
        for turn in range(-1, budget.rounds):
            late = turn >= _MIN_ROUNDS and time.perf_counter() > end
            if ceiling and turn >= 0 and not late:
                ceiling.measure()
            for name, timed in contenders.items():
                if timed.failure is None and timed.capped is None:
                    timed.capped = why_stop(timed, budget, late)
                if timed.failure is not None or timed.capped is not None:
                    continue
                if previous is not None and previous.process is not timed.process:
                    previous.rest()
                previous = timed
                try:
                    if turn < 0:
                        counts[name] = _guess(timed, budget)
                    else:
                        _round(timed, *counts[name])
                except RuntimeError as error:
                    timed.failure = f"{type(error).__name__}: {error}"


def why_stop(timed: Timed, budget: Budget, late: bool) -> str | None:
    """ "cell" or "run": which limit ends a contender's rounds early; None if it goes on."""
    if timed.medians and timed.spent > budget.cap:
        return "cell"
    return "run" if late else None
