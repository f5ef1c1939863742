"""Tiles of the kernels: a plain function of the problem, no autotuning.

A tile is `columns` pixels of a row (of the image, or of one lattice of it) times `channels`, for
`rows` rows; `taps` rows of the kernel are unrolled. The numbers are chosen by counting: registers,
loads per product, vector width (a thread holds columns * channels / (32 * warps) elements, which
have to be one 16-byte vector). docs/notes/depthwise_conv2d_triton.md has the counts.
"""

from __future__ import annotations

from typing import NamedTuple

# Programs that a launch should have at least, before it splits sums further: two for each
# multiprocessor of the largest devices.
_PROGRAMS = 512
_WORKSPACE_LIMIT = 16 << 20
# Of a multiprocessor.
_REGISTERS = 65536


class StencilConfig(NamedTuple):
    """Tile of stencil_kernel, and the most registers of a thread."""

    rows: int
    columns: int
    channels: int
    taps: int
    warps: int
    registers: int


class WeightGradConfig(NamedTuple):
    """Tile of weight_grad_kernel, and the number of partial sums."""

    rows: int
    columns: int
    channels: int
    taps_h: int
    taps_w: int
    warps: int
    splits: int


def _power_of_two(value: int, most: int) -> int:
    """The least power of two that is not below `value`, at most `most`."""
    return min(1 << max(0, value - 1).bit_length(), most)


def _plane(unit: str, itemsize: int, width: int, channels: int) -> tuple[int, int, int]:
    """(columns, channels, warps) of a tile.

    channels_last: a warp's request is 32 vectors, 4 pixels of 64 channels or 8 of 32.
    Otherwise lanes run along the row, two elements each; a tile holds the rows of several planes.
    """
    if unit == "c":
        columns = 8 if width <= 8 else 16
        # 64 channels waste up to a half of a tile of few channels.
        block = 64 if channels % 64 == 0 or channels >= 256 else 32
        return columns, block, max(1, columns * block * itemsize // (32 * 16))
    columns = 8 if width <= 8 else 16 if width <= 16 else 32
    block = _power_of_two(channels, 256 // columns)
    return columns, block, max(1, columns * block // 64)


def stencil(
    unit: str,
    itemsize: int,
    height: int,
    width: int,
    channels: int,
    taps: int,
    shift: int,
) -> StencilConfig:
    """The tile for an output (lattice) of height x width.

    Args:
        unit: the axis of the source that has stride 1, "c", "w" or "".
        itemsize: bytes of an element.
        taps: rows of the kernel that one output pixel meets.
        shift: source rows from tap to tap; rows are shared between outputs if it is 1 or -1.
    """
    columns, block, warps = _plane(unit, itemsize, width, channels)
    if abs(shift) != 1:
        rows = 1
    elif unit == "c" and taps == 7 and height % 7 == 0:
        # 13 loads for 49 products of a 7-tap column, against 10 for 28. Maps of 7, 14, 28, 56.
        rows = 7
    else:
        rows = _power_of_two(height, 4)
    # Of larger kernels as many taps as ptxas keeps in registers beside the sums: with 8 it spills
    # some contiguous kernels, with 4 others.
    if taps > 7:
        taps = 8 if unit == "c" else 6
    # Without a limit of its own ptxas now and then spills a few registers for one more block.
    registers = 128 if unit != "c" else 168 if taps < 7 else 255
    registers = min(registers, _REGISTERS // (32 * warps))
    return StencilConfig(rows, columns, block, taps, warps, registers)


def weight_grad(
    unit: str,
    itemsize: int,
    batch: int,
    out_height: int,
    out_width: int,
    channels: int,
    kernel: tuple[int, int],
    dilation_h: int,
) -> WeightGradConfig:
    """The tile and the splits for a weight gradient: of the problem, whatever the device.

    Splits cost at most about 5 % of the traffic of input and grad_output, and 16 MiB.
    """
    columns, block, warps = _plane(unit, itemsize, out_width, channels)
    kernel_h, kernel_w = kernel
    taps_h = min(kernel_h, 8)
    # All nine taps of a 3x3 kernel fit into registers, of larger ones a column.
    taps_w = 3 if kernel_h <= 3 and kernel_w == 3 else 1
    rows = 1 if dilation_h > 1 else 2 if out_height % 4 == 2 else _power_of_two(out_height, 4)
    tap_blocks = -(-kernel_h // taps_h) * -(-kernel_w // taps_w)
    tiles = batch * -(-out_height // rows) * -(-out_width // columns)
    workspace = (kernel_h * kernel_w + 1) * channels * 4
    splits = min(
        tiles,
        -(-_PROGRAMS // (tap_blocks * -(-channels // block))),
        batch * out_height * out_width // (40 * kernel_h * kernel_w),
        _WORKSPACE_LIMIT // workspace,
    )
    return WeightGradConfig(rows, columns, block, taps_h, taps_w, warps, max(1, splits))
