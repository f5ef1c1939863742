"""Fewer combinations of parameters for backends that are slow, but every value of each.

Triton's interpreter takes some 50 microseconds for an operation on a tile, whatever its size. Tests
whose parameters multiply to thousands of combinations are thinned for it by two rules, which look
at sizes only:

- of each test's combinations, as many stay as it takes for every value of every parameter (every
  case, layout, dtype, activation, offset, ...) to occur: small cases first, for equal ones in an
  order that is shuffled but always the same;
- a case of more than `MOST_TILE_TAPS` is left out. What is special about such cases, many chunks of
  kernel rows, has a small case of its own in tests/triton.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from .problems import DepthwiseConv2dCase

MOST_TILE_TAPS = 700


def tile_taps(case: DepthwiseConv2dCase) -> int:
    """Tiles times taps of the largest pass: what the time in an interpreter is proportional to."""
    _, channels, out_height, out_width = case.output_shape
    rows = -(-max(case.height, out_height) // 4)
    columns = -(-max(case.width, out_width) // 32)
    blocks = -(-channels // 32)
    return case.batch * rows * columns * blocks * case.kernel[0] * case.kernel[1]


def _size(item: Any) -> int:
    values = item.callspec.params.values()
    return max((tile_taps(v) for v in values if isinstance(v, DepthwiseConv2dCase)), default=0)


def thinned(items: Sequence[Any], pairs: bool = False) -> tuple[list[Any], list[Any]]:
    """Splits parametrised pytest items of slow backends: those to run, those to leave out; `pairs`:
    every pair of values occurs, and no case is too large."""
    kept, dropped = [], []
    seen: dict[tuple[str, str], set[Any]] = {}
    for item in sorted(items, key=lambda item: (_size(item), zlib.crc32(item.nodeid.encode()))):
        values: set[Any] = {(name, repr(value)) for name, value in item.callspec.params.items()}
        if pairs:
            values = set(combinations(sorted(values), 2)) or values
        covered = seen.setdefault((str(item.path), item.originalname), set())
        if (pairs or _size(item) <= MOST_TILE_TAPS) and not values <= covered:
            covered |= values
            kept.append(item)
        else:
            dropped.append(item)
    return kept, dropped
