"""What the lanes of a kernel move: sectors of global memory, wavefronts of shared memory.

The same definitions as csrc/emulation/counters.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_SECTOR_BITS = np.uint64(5)
_BANKS, _BANK_BYTES = 32, 4
# Above an address, for the number of a warp or a block.
_KEY_BITS = np.uint64(48)


@dataclass
class GlobalTraffic:
    """Requests are instructions of a warp; sectors are those of 32 bytes that they touch, added
    over requests, and, as `unique_sectors`, each once per block; bytes as the lanes ask for."""

    requests: int = 0
    sectors: int = 0
    unique_sectors: int = 0
    bytes: int = 0


@dataclass
class SharedTraffic:
    """Passes through the 32 banks."""

    requests: int = 0
    wavefronts: int = 0


class Traffic:
    """Of some blocks of one launch."""

    def __init__(self, warps: int, blocks: int) -> None:
        """Args: warps: of each block."""
        lanes = np.arange(blocks * warps * 32, dtype=np.uint64)
        self._warp = lanes // np.uint64(32)
        self._block = lanes // np.uint64(32 * warps)
        self.global_loads, self.global_stores = GlobalTraffic(), GlobalTraffic()
        self.shared_loads, self.shared_stores = SharedTraffic(), SharedTraffic()
        self._touched: tuple[list[Any], list[Any]] = ([], [])
        self._known: dict[Any, tuple[int, int]] = {}

    def count_global(self, addresses: Any, mask: Any, width: int, stores: bool) -> None:
        """Args: addresses: in bytes, one per lane. mask: of the lanes that take part."""
        at, warps = addresses[mask], self._warp[mask]
        if not len(at):
            return
        counters = self.global_stores if stores else self.global_loads
        first = at >> _SECTOR_BITS
        last = (at + np.uint64(width - 1)) >> _SECTOR_BITS
        blocks = self._block[mask]
        if (first != last).any():
            first, warps = np.concatenate((first, last)), np.concatenate((warps, warps))
            blocks = np.concatenate((blocks, blocks))
        counters.requests += len(np.unique(warps))
        counters.sectors += len(np.unique(first | (warps << _KEY_BITS)))
        counters.bytes += len(at) * width
        self._touched[stores].append(np.unique(first | (blocks << _KEY_BITS)))

    def count_shared(self, addresses: Any, mask: Any, width: int, stores: bool) -> None:
        """As `count_global`; a pass serves 32 lanes of 4 bytes, 16 of 8 or 8 of 16."""
        if not mask.any():
            return
        counters = self.shared_stores if stores else self.shared_loads
        # All addresses further by some words: other banks, as many conflicts.
        relative = addresses - addresses[mask.argmax()]
        key = (width, mask.tobytes(), np.where(mask, relative, 0).tobytes())
        if key not in self._known:
            self._known[key] = self._wavefronts(relative, mask, width)
        requests, wavefronts = self._known[key]
        counters.requests += requests
        counters.wavefronts += wavefronts

    def _wavefronts(self, relative: Any, mask: Any, width: int) -> tuple[int, int]:
        lanes = min(32, _BANKS * _BANK_BYTES // width)
        # Not below zero, and of the same bank.
        at = relative[mask] + np.uint64(1 << 40)
        passes = np.arange(len(mask), dtype=np.uint64)[mask] // np.uint64(lanes)
        words = [
            ((at + np.uint64(byte)) // np.uint64(_BANK_BYTES)) | (passes << _KEY_BITS)
            for byte in range(0, width, _BANK_BYTES)
        ]
        distinct = np.unique(np.concatenate(words))
        owner = (distinct >> _KEY_BITS).astype(np.int64)
        bank = (distinct % np.uint64(_BANKS)).astype(np.int64)
        load = np.bincount(owner * _BANKS + bank, minlength=(int(owner.max()) + 1) * _BANKS)
        return len(np.unique(self._warp[mask])), int(load.reshape(-1, _BANKS).max(axis=1).sum())

    def finish(self) -> None:
        """Counts the unique sectors, when all accesses are in."""
        for stores, counters in enumerate((self.global_loads, self.global_stores)):
            if self._touched[stores]:
                counters.unique_sectors = len(np.unique(np.concatenate(self._touched[stores])))
