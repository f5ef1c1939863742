"""Tiles of the kernel: a plain function of the problem, no autotuning.

docs/notes/pointwise.md has the arithmetic and what the compiler makes of it.
"""

from __future__ import annotations

from typing import NamedTuple

# Programs of large tiles that leave multiprocessors of a large GPU without work.
_FEW_PROGRAMS = 128
# Blocks of pixels that meet the same output channels one after the other.
_GROUP = 8
# What 128 pixels of one output channel cost, in numbers read from L2: their sums about as many as
# there are input channels, activating and storing them so many. On an H200 by its rates.
_COLUMN = 192
# Likewise of a number that is read and activated before the product.
_ACTIVATED = 2.5
# Of a thread: two blocks of eight warps share a multiprocessor, and one multiplies while the other
# activates or stores. Left alone, the compiler takes a few more for some kernels.
_REGISTERS = 128
# GELU and its tanh form, by their numbers in the operators' schemas: before a product they spill.
_GELUS, _MOST_REGISTERS = (4, 5), 255


class Config(NamedTuple):
    """Tile of pointwise_kernel, and the most registers of a thread; `reduction`: input channels of
    a step."""

    pixels: int
    reduction: int
    out: int
    group: int
    warps: int
    stages: int
    registers: int


def _power_of_two(value: int) -> int:
    return max(16, 1 << (value - 1).bit_length())


def _out(pixels: int, channels: int, out: int, most: int, read: float) -> int:
    """Output channels of a tile: the least work. A block reads its pixels, for `read` each, and
    weights; a column, also one that does not exist, is computed."""
    tiles = [tile for tile in (16, 32, 64, 128) if tile <= most]

    def cost(tile: int) -> float:
        computed = tile * (channels + _COLUMN)
        return -(-out // tile) * ((read * pixels + tile) * channels + computed)

    return min(tiles, key=cost)


def config(
    images: int, pixels: int, channels: int, out: int, itemsize: int, input_activation: int
) -> Config:
    """The tile for C channels to O of images that are computed one by one, or of one that stands
    for all; `pixels` are those of an image."""
    registers = _MOST_REGISTERS if input_activation in _GELUS else _REGISTERS
    read = _ACTIVATED if input_activation else 1.0
    if itemsize == 4:
        # Products of float32 are multiply-adds of lanes: what they read goes through registers. The
        # same tile in four warps spills.
        return Config(64, 16, _out(64, channels, out, 64, read), _GROUP, 8, 2, registers)
    tile = min(128, max(64, _power_of_two(pixels)))
    columns = _out(tile, channels, out, 128, read)
    if images * -(-pixels // tile) * -(-out // columns) < _FEW_PROGRAMS:
        columns, reduction = _out(64, channels, out, 32, read), min(64, _power_of_two(channels))
        return Config(64, reduction, columns, _GROUP, 4, 4, registers)
    # Steps of 64 hold so many gated pixels that some kernels spill.
    reduction = min(32, _power_of_two(channels))
    # What is activated before the product is spread over more threads, too.
    warps = 8 if tile * columns > 8192 or input_activation else 4
    return Config(tile, reduction, columns, _GROUP, warps, 4, registers)
