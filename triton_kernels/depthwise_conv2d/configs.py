"""Tiles of the kernels: a plain function of the problem, no autotuning.

A tile is `columns` pixels of a row (of the image, or of one lattice of it) times `channels`, for
`rows` rows; `taps` rows of the kernel are unrolled. The numbers are chosen by counting: registers,
loads per product, vector width (a thread holds columns * channels / (32 * warps) elements, which
have to be one 16-byte vector). docs/notes/depthwise_conv2d_triton.md has the counts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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


class StencilPlan(NamedTuple):
    """A launch of stencil_kernel: its tile and the tiles of one residue along each axis.

    Attributes:
        lattice: the input gradient's residues along (height, width), of one launch; else (1, 1).
        apart: kernel rows and columns from a tap that a residue meets to the next.
        shift: source rows from tap to tap.
    """

    config: StencilConfig
    lattice: tuple[int, int]
    apart: tuple[int, int]
    shift: int
    row_blocks: int
    column_blocks: int
    channel_blocks: int
    programs: int


class WeightGradPlan(NamedTuple):
    """A launch of weight_grad_kernel: `tiles` are added up by each block of channels and taps.

    Attributes:
        partial: the shape of the partial sums.
    """

    config: WeightGradConfig
    row_blocks: int
    column_blocks: int
    channel_blocks: int
    tap_columns: int
    tap_blocks: int
    tiles: int
    programs: int
    partial: tuple[int, int, int]


def unit(tensor: Any) -> str:
    """The axis of a (N, C, H, W) tensor that has stride 1, "c" or "w"; "" if it is another one."""
    _, channels, _, width = tensor.shape
    _, stride_c, _, stride_w = tensor.stride()
    if stride_c == 1 and channels > 1 and (stride_w != 1 or width == 1):
        return "c"
    return "w" if stride_w == 1 or width == 1 else ""


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


def plan_stencil(
    unit: str,
    itemsize: int,
    output: tuple[int, ...],
    kernel_h: int,
    geometry: tuple[int, ...],
    grad_input: bool,
) -> StencilPlan:
    """Tile and grid of a forward pass, or with `grad_input` of an input gradient.

    Args:
        unit, itemsize: as for `stencil`.
        output: (N, C, H, W), of what is written.
        geometry: as for launch.stencil.
    """
    batch, channels, height, width = output
    dilation_h, dilation_w = geometry[6:]
    lattice = (geometry[0], geometry[1]) if grad_input else (1, 1)
    apart_h = lattice[0] // math.gcd(lattice[0], dilation_h)
    apart_w = lattice[1] // math.gcd(lattice[1], dilation_w)
    shift = dilation_h * apart_h // lattice[0]
    rows, columns = -(-height // lattice[0]), -(-width // lattice[1])
    config = stencil(unit, itemsize, rows, columns, channels, -(-kernel_h // apart_h), shift)
    row_blocks = -(-rows // config.rows)
    column_blocks = -(-columns // config.columns)
    channel_blocks = -(-channels // config.channels)
    programs = batch * row_blocks * column_blocks * channel_blocks * lattice[0] * lattice[1]
    return StencilPlan(
        config,
        lattice,
        (apart_h, apart_w),
        shift,
        row_blocks,
        column_blocks,
        channel_blocks,
        programs,
    )


def plan_weight_grad(
    unit: str, itemsize: int, grad: tuple[int, ...], kernel: tuple[int, int], dilation_h: int
) -> WeightGradPlan:
    """Tile, grid and workspace of a weight gradient.

    Args:
        unit, itemsize: as for `weight_grad`.
        grad: (N, C * M, H', W').
    """
    batch, channels, out_height, out_width = grad
    config = weight_grad(unit, itemsize, batch, out_height, out_width, channels, kernel, dilation_h)
    row_blocks = -(-out_height // config.rows)
    column_blocks = -(-out_width // config.columns)
    channel_blocks = -(-channels // config.channels)
    tap_columns = -(-kernel[1] // config.taps_w)
    tap_blocks = tap_columns * -(-kernel[0] // config.taps_h)
    return WeightGradPlan(
        config,
        row_blocks,
        column_blocks,
        channel_blocks,
        tap_columns,
        tap_blocks,
        batch * row_blocks * column_blocks,
        config.splits * channel_blocks * tap_blocks,
        (config.splits, kernel[0] * kernel[1] + 1, channels),
    )
