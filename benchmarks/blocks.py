"""A block of timed calls: the part of timing that runs in the process of a contender.

Without PyTorch, which has no business in the processes of its peers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .noise import page_faults, run_queue_seconds, running_threads

Call = Callable[[], Any]

_WARM_UP = 0.0015
# A slower call needs none, it warms up by itself.
_WARM_UP_LIMIT = 0.1
# The share of a block that may be spent waiting for a core.
_MAX_WAITING = 0.05
# The longest that a pool of threads has been seen to spin is 50 ms.
_LONGEST_REST = 0.2


@dataclass(frozen=True)
class Block:
    """Timed calls.

    Attributes:
        seconds: of each call, ascending.
        disturbed: whether the process had to wait for a core.
        page_faults: pages that the timed calls touched for the first time.
    """

    seconds: list[float]
    disturbed: bool
    page_faults: int


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
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


def block(calls: Sequence[Call], count: int, guess: float) -> Block:
    """Warms up, then times `count` single calls in turn; `guess` is a call's time in seconds."""
    copies, warm = len(calls), 0
    start, waited = time.perf_counter(), run_queue_seconds()
    end = start + (_WARM_UP if guess < _WARM_UP_LIMIT else 0)
    while time.perf_counter() < end:
        calls[warm % copies]()
        warm += 1
    faults = page_faults()
    seconds = [_seconds(calls[(warm + i) % copies]) for i in range(count)]
    faults = page_faults() - faults
    waited = run_queue_seconds() - waited
    disturbed = waited > _MAX_WAITING * (time.perf_counter() - start)
    return Block(sorted(seconds), disturbed, faults)


def rest() -> None:
    """Returns when no other thread of this process runs: pools spin on after their work is done.

    What spins takes a core from the contender that is next, if that is another process.
    """
    end = time.perf_counter() + _LONGEST_REST
    time.sleep(0.002)
    while running_threads() > 0 and time.perf_counter() < end:
        time.sleep(0.001)
