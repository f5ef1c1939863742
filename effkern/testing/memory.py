"""How much memory a call leaves behind, and how much it needs at its peak."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from pathlib import Path


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def heap_in_use() -> int:
    """Bytes that malloc has handed out and not got back, in all threads (glibc 2.33 and newer)."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def heap_growth(call: Callable[[], object], calls: int) -> float:
    """Bytes per call that stay allocated, over `calls` calls.

    The median of five rounds: a leak is in each of them, a cache that fills up is not.
    """
    rounds = []
    for _ in range(5):
        before = heap_in_use()
        for _ in range(calls):
            call()
        rounds.append((heap_in_use() - before) / calls)
    return statistics.median(rounds)


def peak_memory(call: Callable[[], object]) -> int:
    """Resident bytes that the process needs at most during `call()`, beyond those before (Linux).

    Counts every page touched, whoever allocated it: what profilers of torch's allocator do not see
    of a library's scratch memory.
    """
    # 5 resets the high-water mark of the resident set.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")
