"""The machine's ceilings, measured: multiply-add rate, and copy bandwidth over the working set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

KIB, MIB = 1 << 10, 1 << 20
# Working sets in bytes, from the L2 caches to memory.
_CPU_SIZES = (128 * KIB, 512 * KIB, 2 * MIB, 6 * MIB, 12 * MIB, 24 * MIB, 64 * MIB, 256 * MIB)


@dataclass
class Ceilings:
    """What the device can do; `how` says how each figure was measured.

    Attributes:
        flops_per_second: multiply-adds, two FLOPs each.
        copies: (working set in bytes, bytes read and written per second), ascending.
        cached: bytes per second of a copy within the L2 cache (CUDA), or None.
    """

    flops_per_second: float
    copies: list[tuple[int, float]]
    how: dict[str, str]
    cached: float | None = None

    def bandwidth(self, working_set: int) -> float:
        """Bytes per second for a working set, linear between the measured sizes' neighbours."""
        sizes = self.copies
        if working_set <= sizes[0][0]:
            return sizes[0][1]
        for (size, rate), (next_size, next_rate) in zip(sizes, sizes[1:], strict=False):
            if working_set <= next_size:
                share = (working_set - size) / (next_size - size)
                return rate + share * (next_rate - rate)
        return sizes[-1][1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ceilings:
        copies = [(int(size), float(rate)) for size, rate in data["copies"]]
        return cls(data["flops_per_second"], copies, data["how"], data.get("cached"))

    def best(self, other: Ceilings) -> Ceilings:
        """The higher figure of two measurements: a ceiling disturbed is a ceiling too low."""
        pairs = zip(self.copies, other.copies, strict=True)
        copies = [(size, max(rate, other_rate)) for (size, rate), (_, other_rate) in pairs]
        cached = max((rate for rate in (self.cached, other.cached) if rate), default=None)
        peak = max(self.flops_per_second, other.flops_per_second)
        return Ceilings(peak, copies, self.how, cached)


def _best_rate(work: Callable[[], object], amount: float, repeats: int = 6) -> float:
    """amount per second in the fastest of `repeats` calls."""
    work()
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return amount / fastest


def never_rising(copies: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """A larger working set is never faster: what it shows, a smaller one can do as well."""
    highest, result = 0.0, []
    for size, rate in reversed(copies):
        highest = max(highest, rate)
        result.append((size, highest))
    return result[::-1]


def _native_cpu(threads: int, seconds: float) -> Ceilings | None:
    try:
        from effkern._C import measure_copy_bandwidth, measure_fma_peak
    except ImportError:
        return None
    peaks = [measure_fma_peak(threads, seconds) for _ in range(5)]
    copies = []
    for size in _CPU_SIZES:
        stores = (False, True) * 3
        rates = [measure_copy_bandwidth(size, threads, seconds, streaming=s) for s in stores]
        copies.append((size, max(rate.per_second for rate in rates)))
    how = {
        "flops": f"independent {peaks[0].isa} multiply-adds on registers, {threads} threads, "
        "best of 5",
        "copies": f"vector copy, {threads} threads, plain or streaming stores, best of 3 each",
    }
    peak = max(rate.per_second for rate in peaks)
    return Ceilings(peak, never_rising(copies), how)


def _torch_cpu(threads: int, seconds: float) -> Ceilings:
    side = 2048
    a, b, out = (torch.randn(side, side) for _ in range(3))
    peak = _best_rate(lambda: torch.mm(a, b, out=out), 2 * side**3)
    copies = []
    for size in _CPU_SIZES:
        source = torch.randn(size // 8)
        target, times = torch.empty_like(source), max(1, int(seconds * 5e10 / size))

        def copy(source=source, target=target, times=times) -> None:
            for _ in range(times):
                target.copy_(source)

        copies.append((size, _best_rate(copy, times * size)))
    how = {
        "flops": f"torch.mm of {side}^2 float32 matrices, {threads} threads, best of 6: a lower "
        "estimate, effkern's own measurement is not built",
        "copies": "torch.Tensor.copy_, best of 6: a lower estimate below 1 MiB",
    }
    return Ceilings(peak, never_rising(copies), how)


def measure(device: str, dtype: torch.dtype = torch.float32, seconds: float = 0.06) -> Ceilings:
    """Measures the ceilings of a device with the threads in use; some seconds."""
    if device == "cuda":
        from . import ceilings_cuda

        return ceilings_cuda.measure(dtype)
    threads = torch.get_num_threads()
    return _native_cpu(threads, seconds) or _torch_cpu(threads, seconds)
