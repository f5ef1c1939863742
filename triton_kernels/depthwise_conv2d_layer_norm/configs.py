"""Tiles of the kernel: a plain function of the problem, no autotuning.

A thread holds one 16-byte vector of channels of each tile.
docs/notes/depthwise_conv2d_layer_norm.md has the counts.
"""

from __future__ import annotations

from typing import NamedTuple

# Of a pixel: in registers, all of them.
MOST_CHANNELS = 1024
KERNELS = (3, 5, 7)
_COLUMNS = 8
# Of a block: with more, fewer than the 200 registers that the sums and weights of a thread take.
_MOST_WARPS = 8
# Of a multiprocessor.
_REGISTERS = 65536


class Config(NamedTuple):
    """Tile of depthwise_conv2d_layer_norm_kernel, and the most registers of a thread."""

    rows: int
    columns: int
    channels: int
    groups: int
    warps: int
    registers: int


def config(channels: int, itemsize: int) -> Config:
    """The tile for at most `MOST_CHANNELS` channels: the fewest that are padded, then the fewest
    groups."""
    vector = 16 // itemsize
    choices = [
        (tile, groups)
        for tile in (32, 64, 128, 256)
        for groups in range(1, 5)
        if tile * groups >= channels
    ]
    tile, groups = min(choices, key=lambda choice: (choice[0] * choice[1], choice[1]))
    columns = min(_COLUMNS, _MOST_WARPS * 32 * vector // tile)
    warps = max(1, columns * tile // (32 * vector))
    # Four rows read a pixel of the image 4.4 times with 7x7, two rows seven times.
    rows = 4 if groups < 4 else 2
    return Config(rows, columns, tile, groups, warps, min(255, _REGISTERS // (32 * warps)))
