"""Interleaved timing on the CPU.

Contenders take turns, block by block (A B C A B C ...), so that a slow phase of the machine meets
them all. A block warms up, then times single calls. Reported are the median over the rounds of each
block's median, and the same of each block's 20th percentile, which other processes disturb less.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from .budget import Budget
from .calls import Call
from .noise import run_queue_seconds

# Rounds that are run however late it is, unless the contender reaches its cap.
_MIN_ROUNDS = 3
# Threads of one contender's pool may still spin when the next one starts.
_GAP = 0.002
_WARM_UP = 0.0015
# A slower call needs none, it warms up by itself.
_WARM_UP_LIMIT = 0.1
# The share of a block that may be spent waiting for a core, and how often a block is repeated.
_MAX_WAITING = 0.05
_REPEATS = 2


@dataclass
class Timed:
    """A contender's calls for one problem, over copies of the operands, and where to make them."""

    calls: Sequence[Call]
    context: Callable[[], AbstractContextManager[None]]
    medians: list[float] = field(default_factory=list)
    percentiles: list[float] = field(default_factory=list)
    fastest: float = float("inf")
    timed_calls: int = 0
    disturbed: int = 0
    spent: float = 0.0
    capped: str | None = None

    def summary(self) -> dict[str, float | int | str | None]:
        """Times in microseconds."""
        return {
            "median_us": median(self.medians) * 1e6,
            "p20_us": median(self.percentiles) * 1e6,
            "min_us": self.fastest * 1e6,
            "spread": max(self.medians) / min(self.medians),
            "rounds": len(self.medians),
            "calls": self.timed_calls,
            "disturbed_rounds": self.disturbed,
            "capped": self.capped,
        }


@contextmanager
def quiet() -> Iterator[None]:
    """No gradients recorded and no garbage collection."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            yield
    finally:
        if enabled:
            gc.enable()


def _seconds(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-9


def probe(calls: Sequence[Call]) -> float:
    """A first estimate of a call's time in seconds."""
    first = _seconds(calls[0])
    return first if first > 0.05 else min(_seconds(calls[i % len(calls)]) for i in range(3))


def _block(calls: Sequence[Call], count: int, guess: float) -> list[float]:
    copies, warm = len(calls), 0
    end = time.perf_counter() + (_WARM_UP if guess < _WARM_UP_LIMIT else 0)
    while time.perf_counter() < end:
        calls[warm % copies]()
        warm += 1
    return sorted(_seconds(calls[(warm + i) % copies]) for i in range(count))


def _round(timed: Timed, count: int, guess: float) -> None:
    start = time.perf_counter()
    for _ in range(1 + _REPEATS):
        time.sleep(_GAP)
        block_start, waited = time.perf_counter(), run_queue_seconds()
        with timed.context():
            seconds = _block(timed.calls, count, guess)
        waited = run_queue_seconds() - waited
        disturbed = waited > _MAX_WAITING * (time.perf_counter() - block_start)
        if not disturbed:
            break
    timed.spent += time.perf_counter() - start
    timed.disturbed += disturbed
    timed.medians.append(median(seconds))
    timed.percentiles.append(seconds[len(seconds) // 5])
    timed.fastest = min(timed.fastest, seconds[0])
    timed.timed_calls += len(seconds)


def interleaved(contenders: dict[str, Timed], budget: Budget, seconds: float) -> None:
    """Fills in the measurements of every contender; `seconds` is this problem's share of time."""
    counts, end = {}, time.perf_counter() + seconds
    with quiet():
        for name, timed in contenders.items():
            with timed.context():
                guess = probe(timed.calls)
            # A call that takes longer than a block is still timed, once a round.
            least = 1 if guess > budget.block else 3
            counts[name] = (min(max(int(budget.block / guess), least), 500), guess)
        for turn in range(budget.rounds):
            late = turn >= _MIN_ROUNDS and time.perf_counter() > end
            for name, timed in contenders.items():
                if timed.capped is None:
                    timed.capped = why_stop(timed, budget, late)
                if timed.capped is None:
                    _round(timed, *counts[name])


def why_stop(timed: Timed, budget: Budget, late: bool) -> str | None:
    """ "cell" or "run": which limit ends a contender's rounds early; None if it goes on."""
    if timed.medians and timed.spent > budget.cap:
        return "cell"
    return "run" if late else None
