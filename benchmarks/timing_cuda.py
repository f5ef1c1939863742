"""Interleaved timing on CUDA, with a cold and with a warm L2 cache.

Cold: graphs of calls that rotate over operands and results larger than the cache, so that every
call finds them in device memory, as in a model whose other layers have evicted them. This is the
time that is reported. Warm: the same operands in every call; what fits into the cache stays there.

A replayed graph holds no host time. Without one (a contender that cannot be captured) events
enclose a queue of calls, and a call that the host enqueues slowly takes the host's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from .budget import Budget
from .timing import Timed, quiet, why_stop

# Bytes to rotate over, in units of the L2 cache, and the most copies that are made.
_L2_MULTIPLE = 3
_MAX_COPIES = 1000
# Calls in a queue; one of them alone is too short for an event.
_MIN_CALLS = 20
# Intervals between events in a round, and rounds with a warm cache.
_INTERVALS = 5
_WARM_ROUNDS = 3
_MOST_REPEATS = 1000


class Queue(NamedTuple):
    """Something to enqueue, the calls it makes, and whether it replays a graph."""

    run: Callable[[], object]
    calls: int
    graph: bool


def copies(bytes_per_call: int) -> int:
    """How many copies of the operands it takes to leave the L2 cache."""
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return min(max(-(-_L2_MULTIPLE * l2 // max(bytes_per_call, 1)), 2), _MAX_COPIES)


def _all(calls: Sequence[Callable[[], object]]) -> tuple[Callable[[], None], int]:
    """All calls, as often as it takes, and their number."""
    repeats = -(-_MIN_CALLS // len(calls))

    def run() -> None:
        # Results that are kept rotate as the operands do: freed at once, they would all be
        # written to the same memory, and stay in the cache.
        results: list[object] = [None] * len(calls)
        for _ in range(repeats):
            for i, call in enumerate(calls):
                results[i] = call()

    return run, repeats * len(calls)


def queue(calls: Sequence[Callable[[], object]]) -> Queue:
    """The calls as a graph, or as they are if they cannot be captured."""
    run, count = _all(calls)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # cuDNN picks its algorithm in these calls, which must not happen during the capture.
    with torch.cuda.stream(stream):
        for call in calls[:3]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return Queue(run, count, False)
    return Queue(graph.replay, count, True)


def seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Of the device, between events before and after `repeats` runs."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


def _repeats(queue: Queue, budget: Budget) -> int:
    """How often the queue runs between two events; the first runs also warm up."""
    seconds(queue.run)
    guess = max(seconds(queue.run), 1e-7)
    return min(max(int(budget.block / _INTERVALS / guess), 1), _MOST_REPEATS)


def _block(queue: Queue, repeats: int) -> list[float]:
    """Seconds per call, ascending."""
    seconds(queue.run)
    calls = repeats * queue.calls
    return sorted(seconds(queue.run, repeats) / calls for _ in range(_INTERVALS))


def _cold_round(timed: Timed, queue: Queue, repeats: int) -> None:
    block = _block(queue, repeats)
    calls = repeats * queue.calls
    timed.spent += sum(block) * calls
    timed.medians.append(median(block))
    timed.percentiles.append(block[1])
    timed.fastest = min(timed.fastest, block[0])
    timed.timed_calls += _INTERVALS * calls


def _guarded(timed: Timed, measure: Callable[[], Any]) -> Any:
    """What `measure` returns; an error ends the contender, not the run."""
    try:
        with timed.context():
            return measure()
    except RuntimeError as error:
        timed.failure = f"{type(error).__name__}: {error}"
        return None


def interleaved(
    contenders: dict[str, Timed], budget: Budget, share: float
) -> dict[str, dict[str, Any]]:
    """Fills in the measurements within about `share` seconds.

    Returns:
        For each contender that did not fail: "graph", whether its calls ran as a graph, and
        "warm_us", microseconds with a warm cache.
    """
    end = time.perf_counter() + share
    torch.backends.cudnn.benchmark = True
    with quiet():
        prepared = {}
        for name, timed in contenders.items():
            prepared[name] = _guarded(timed, lambda timed=timed: _prepare(timed.calls, budget))
        for turn in range(budget.rounds):
            late = turn > 2 and time.perf_counter() > end
            for name, timed in contenders.items():
                timed.capped = timed.capped or why_stop(timed, budget, late)
                if timed.failure is None and timed.capped is None:
                    _guarded(timed, lambda t=timed, n=name: _cold_round(t, *prepared[n]))
        facts = {}
        for name, timed in contenders.items():
            warm = _guarded(timed, lambda t=timed: _warm(t.calls, budget))
            if timed.failure is None:
                facts[name] = {"graph": prepared[name][0].graph, "warm_us": warm * 1e6}
        return facts


def _prepare(calls: Sequence[Callable[[], object]], budget: Budget) -> tuple[Queue, int]:
    cold = queue(calls)
    return cold, _repeats(cold, budget)


def _warm(calls: Sequence[Callable[[], object]], budget: Budget) -> float:
    """Seconds per call on the first operands alone."""
    warm = queue(calls[:1])
    repeats = _repeats(warm, budget)
    return median(median(_block(warm, repeats)) for _ in range(_WARM_ROUNDS))
