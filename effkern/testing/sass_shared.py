"""Integers that a kernel keeps in shared memory, such as tables of offsets."""

from __future__ import annotations

from typing import Any

import numpy as np

# Of a block, in words of 4 bytes; a place is a byte address.
_WORDS = (228 << 10) // 4
_WORD_BITS = np.uint64(2)


class SharedIntegers:
    """Words of shared memory whose values are known, of some blocks."""

    def __init__(self, lanes: int, blocks: int) -> None:
        self._first = np.repeat(np.arange(blocks), lanes // blocks) * _WORDS
        self._size = blocks * _WORDS
        self._values: Any = None
        self._known: Any = None

    def _places(self, addresses: Any, mask: Any, width: int) -> Any:
        """Of each word of the lanes in `mask`: (words, lanes)."""
        words = (addresses[mask] >> _WORD_BITS).astype(np.int64)
        places = np.minimum(words, _WORDS - 1 - width // 4) + self._first[mask]
        return places + np.arange(max(1, width // 4))[:, None]

    def store(self, addresses: Any, mask: Any, width: int, value: Any | None) -> None:
        """Args: value: one for each lane, of 32 bits; None: data, or another width."""
        if value is None:
            if self._known is not None:
                self._known[self._places(addresses, mask, width)] = False
            return
        if self._known is None:
            self._values = np.zeros(self._size, np.uint64)
            self._known = np.zeros(self._size, bool)
        places = self._places(addresses, mask, 4)[0]
        self._values[places] = np.broadcast_to(value, mask.shape)[mask]
        self._known[places] = True

    def load(self, addresses: Any, mask: Any, width: int) -> list[Any] | None:
        """A value for each word and lane; None if one is not known."""
        if self._known is None or width < 4 or not mask.any():
            return None
        places = self._places(addresses, mask, width)
        if not self._known[places].all():
            return None
        found = np.zeros((len(places), len(mask)), np.uint64)
        found[:, mask] = self._values[places]
        return list(found)
