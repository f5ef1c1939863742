"""The ceiling that binds a problem on the CPU, measured in every round beside the contenders.

The speed of a shared machine changes by the second. A floor from the best ceiling of a whole run
would charge the contenders of a slow minute with it.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from . import blocks
from .ceilings import Ceilings

# Seconds per measurement: some calls of the measuring loop, which takes 0.1 ms.
_SECONDS = 0.003


class BindingCeiling:
    """The rate of multiply-adds, or of a copy as large as the operands, whichever binds.

    Args:
        flops, size: what the problem computes, and the bytes of its operands and results.
        ceilings: those of the run, which tell what binds.
    """

    def __init__(self, flops: int, size: int, ceilings: Ceilings) -> None:
        computes = flops / ceilings.flops_per_second >= size / ceilings.bandwidth(size)
        self.bound = "compute" if computes else "bandwidth"
        self._amount, self._size = flops if computes else size, size
        self._rates: list[float] = []

    def measure(self) -> None:
        """One round's measurement, with as many threads as torch uses."""
        from effkern._C import measure_copy_bandwidth, measure_fma_peak

        # Threads of the contender before that still spin would take a core from it.
        blocks.rest()
        threads = torch.get_num_threads()
        if self.bound == "compute":
            self._rates.append(measure_fma_peak(threads, _SECONDS).per_second)
            return
        rates = [
            measure_copy_bandwidth(self._size, threads, _SECONDS, streaming=streaming)
            for streaming in (False, True)
        ]
        self._rates.append(max(rate.per_second for rate in rates))

    def floor(self) -> dict[str, Any]:
        """As `cells.roofline`, from the median of the rounds."""
        return {"floor_us": self._amount / median(self._rates) * 1e6, "bound": self.bound}


def binding_ceiling(flops: int, size: int, ceilings: Ceilings) -> BindingCeiling | None:
    """None where effkern's native module, which measures, is not built."""
    try:
        import effkern._C  # noqa: F401
    except ImportError:
        return None
    return BindingCeiling(flops, size, ceilings)
