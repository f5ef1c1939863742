"""Interleaved timing on CUDA: graphs of calls that rotate over operands larger than the L2 cache.

A replayed graph holds no host time, and rotating makes every call find its operands in device
memory, as in a model whose other layers have evicted them. Without a graph (a contender that cannot
be captured) events enclose a queue of calls, long enough for the host to stay ahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from .budget import Budget
from .timing import Timed, quiet, why_stop

# Bytes to rotate over, in units of the L2 cache, and the most copies that are made.
_L2_MULTIPLE = 3
_MAX_COPIES = 200
_MIN_CALLS = 20


def copies(bytes_per_call: int) -> int:
    """How many copies of the operands it takes to leave the L2 cache."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return min(max(-(-_L2_MULTIPLE * l2 // max(bytes_per_call, 1)), 2), _MAX_COPIES)


def _queue(timed: Timed) -> tuple[Callable[[], None], int]:
    repeats = -(-_MIN_CALLS // len(timed.calls))

    def run() -> None:
        for _ in range(repeats):
            for call in timed.calls:
                call()

    return run, repeats * len(timed.calls)


def _graph(timed: Timed) -> tuple[Callable[[], None], int, bool]:
    """A replay, the calls in it, and whether it is a graph."""
    run, count = _queue(timed)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # cuDNN picks its algorithm in these calls, which must not happen during the capture.
    with torch.cuda.stream(stream):
        for call in timed.calls[:3]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return run, count, False
    return graph.replay, count, True


def _seconds(replay: Callable[[], None], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


def interleaved(contenders: dict[str, Timed], budget: Budget, seconds: float) -> dict[str, bool]:
    """Fills in the measurements within about `seconds`; returns which contenders ran as graphs."""
    end = time.perf_counter() + seconds
    torch.backends.cudnn.benchmark = True
    replays, graphs, repeats = {}, {}, {}
    with quiet():
        for name, timed in contenders.items():
            with timed.context():
                replay, count, graphs[name] = _graph(timed)
                replays[name] = (replay, count)
                _seconds(replay, 1)
                guess = _seconds(replay, 1)
            repeats[name] = min(max(int(budget.block / guess), 1), 1000)
        for turn in range(budget.rounds):
            late = turn > 2 and time.perf_counter() > end
            for name, timed in contenders.items():
                timed.capped = timed.capped or why_stop(timed, budget, late)
                if timed.capped:
                    continue
                replay, count = replays[name]
                with timed.context():
                    _seconds(replay, 1)
                    block = sorted(
                        _seconds(replay, repeats[name]) / (repeats[name] * count) for _ in range(5)
                    )
                timed.spent += sum(block) * repeats[name] * count
                timed.medians.append(median(block))
                timed.percentiles.append(block[1])
                timed.fastest = min(timed.fastest, block[0])
                timed.timed_calls += 5 * repeats[name] * count
    return graphs
