"""Tiles of the kernel: a plain function of the channels and the dtype, no autotuning.

The sums of all channels that are held at a time live in registers. docs/notes/mbconv.md has the
arithmetic and what the compiler makes of it.
"""

from __future__ import annotations

from typing import NamedTuple

# Output channels of a projection: their sums stay in registers.
MOST_OUT = 256
# Columns of sums that a program holds, expanded and output channels together: of 128 pixels in
# eight warps, 128 registers of a thread. With 288, 80-320-80 spills on sm_80.
_MOST_COLUMNS = 256
_PIXELS = 128


class Config(NamedTuple):
    """Tile of fused_mbconv_kernel.

    Attributes:
        reduction: terms of the convolution's sums per step.
        expanded, groups: channels of a product, and products that share a tile of the input.
        out: output channels, rounded up to a power of two.
    """

    pixels: int
    reduction: int
    expanded: int
    groups: int
    out: int
    warps: int
    stages: int


def goes_through_l1(channels: int, itemsize: int) -> bool:
    """Whether pixels are copied 8 bytes at a time although they are aligned to more.

    Nine taps read a pixel from L2 once then, for a quarter to two fifths more instructions.
    """
    return itemsize == 2 and channels % 8 == 0


def _power_of_two(value: int) -> int:
    return max(16, 1 << (value - 1).bit_length())


def _groups(expanded: int, most: int) -> tuple[int, int]:
    """(channels of a product, products) of at most `most` columns: what reads least, pixels once
    for each pass and weights; then the fewest products."""
    least = min(32, _power_of_two(expanded))
    tiles = [tile for tile in (16, 32, 64, 128) if least <= tile <= max(most, least)]
    choices = [(tile, count) for tile in tiles for count in range(1, max(most // tile, 1) + 1)]

    def cost(choice: tuple[int, int]) -> tuple[int, int]:
        tile, count = choice
        return -(-expanded // (tile * count)) * (_PIXELS + tile * count), count

    return min(choices, key=cost)


def config(expanded: int, out: int | None, itemsize: int) -> Config:
    """The tile for E expanded and O output channels; `out` is None without a projection."""
    columns = 16 if out is None else _power_of_two(out)
    if itemsize == 4:
        # Products of float32 are multiply-adds of lanes: what they read goes through registers.
        return Config(64, 16, min(32, _power_of_two(expanded)), 1, columns, 8, 2)
    # Storing the sums of 256 columns, without a projection, spills on sm_80.
    projected = 64 if out is None else columns
    if projected > _MOST_COLUMNS // 2:
        # The same registers hold twice the columns of half the pixels.
        tile, groups = _groups(expanded, _MOST_COLUMNS // 2)
        return Config(_PIXELS // 2, 32, tile, groups, columns, 8, 4)
    tile, groups = _groups(expanded, _MOST_COLUMNS - projected)
    held = tile * groups + projected
    return Config(_PIXELS, 32, tile, groups, columns, 8 if held > 96 else 4, 4)
