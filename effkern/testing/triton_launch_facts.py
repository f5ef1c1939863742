"""What a Triton launch executes and moves, from the facts of its gate and its grid.

Triton's kernels are straight code around one loop, whose trip count the tile gives. Global memory
is counted as the tiles' footprints; shared memory, which only sums of a few values go through, is
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..prediction import WARP
from .launch_facts import SECTOR, LaunchFacts
from .triton_gate import Facts
from .triton_stub import Launch

_WORKSPACE_ITEM = 4


class Geometry(NamedTuple):
    """Of a call; sizes of the input (channels, height, width) and the output, padding before."""

    batch: int
    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    itemsize: int


def geometry(layer: Any, batch: int, itemsize: int) -> Geometry:
    """Of a layer of benchmarks.workloads."""
    return Geometry(
        batch,
        layer.out_channels,
        (layer.height, layer.width),
        (layer.out_height, layer.out_width),
        (layer.kernel_h, layer.kernel_w),
        (layer.stride_h, layer.stride_w),
        (layer.pad_top, layer.pad_left),
        (layer.dilation_h, layer.dilation_w),
        itemsize,
    )


def _runs(
    positions: int, block: int, lattice: int, reads: Callable[[int], Iterable[int]]
) -> list[set[int]]:
    """What each block of `block` positions of one residue reads along an axis."""
    found = []
    for residue in range(lattice):
        own = range(residue, positions, lattice)
        for first in range(0, len(own), block):
            found.append({x for at in own[first : first + block] for x in reads(at)})
    return found


def _sectors(count: int, itemsize: int) -> float:
    """On average, of `count` neighbours anywhere."""
    return ((count - 1) * itemsize) / SECTOR + 1 if count else 0.0


def _bytes(
    pixels: list[list[set[int]]],
    size: tuple[int, int],
    channels: int,
    tile: int,
    unit: str,
    item: int,
    by_row: bool = False,
) -> float:
    """Of 32-byte sectors that all tiles of one image touch, each once per tile.

    Args:
        pixels: rows and columns of the tiles. size: of the image. tile: channels of one.
        by_row: each once per row of a tile instead, where lanes run along rows.
    """
    if unit == "c":
        rows, columns = (sum(len(run) for run in axis) for axis in pixels)
        blocks, rest = divmod(channels, tile)
        aligned = channels * item % SECTOR == 0
        each = tile * item / SECTOR if aligned else _sectors(tile, item)
        last = rest * item / SECTOR if aligned else _sectors(rest, item)
        return SECTOR * rows * columns * (blocks * each + last)
    total = 0.0
    for rows_run in pixels[0]:
        for columns_run in pixels[1]:
            rows, columns = len(rows_run), len(columns_run)
            if by_row or columns < size[1]:
                total += channels * rows * _sectors(columns, item)
            elif rows < size[0]:
                # Whole rows are neighbours, and whole planes too.
                total += channels * _sectors(rows * columns, item)
            else:
                total += channels / tile * _sectors(tile * rows * columns, item)
    return SECTOR * total


def _reads(geometry: Geometry, axis: int, gradient: bool) -> Callable[[int], list[int]]:
    """The pixels that one pixel of the result reads along an axis."""
    kernel, stride = geometry.kernel[axis], geometry.stride[axis]
    pad, dilation = geometry.padding[axis], geometry.dilation[axis]
    limit = (geometry.out_size if gradient else geometry.size)[axis]

    def forward(at: int) -> list[int]:
        reached = (at * stride - pad + tap * dilation for tap in range(kernel))
        return [x for x in reached if 0 <= x < limit]

    def backward(at: int) -> list[int]:
        reached = (at + pad - tap * dilation for tap in range(kernel))
        return [x // stride for x in reached if x % stride == 0 and 0 <= x // stride < limit]

    return backward if gradient else forward


def _executed(facts: Facts, products: float, trips: float) -> float:
    """Instructions of a warp: those of the loop as often as `products`, the multiply-adds of a
    thread in one of `trips`, say. So a loop inside it counts by its share of them."""
    turns = trips * products / facts.loop_fused_multiply_adds
    return facts.instructions + facts.loop_instructions * (turns - 1)


def _stencil(launch: Launch, facts: Facts, geometry: Geometry) -> tuple[float, float, float]:
    values, item = launch.values, geometry.itemsize
    gradient, unit = bool(values["GRAD_INPUT"]), values["SOURCE_UNIT"]
    lattice = geometry.stride if gradient else (1, 1)
    source, out = geometry.size, geometry.out_size
    if gradient:
        source, out = out, source
    tile = values["CHANNELS"]
    blocks = (values["ROWS"], values["COLUMNS"])
    read = [_runs(out[i], blocks[i], lattice[i], _reads(geometry, i, gradient)) for i in range(2)]
    written = [_runs(out[i], blocks[i], lattice[i], lambda at: [at]) for i in range(2)]
    channels = geometry.channels
    loads = geometry.batch * _bytes(read, source, channels, tile, unit, item)
    # The weights of a residue, packed as float32 where channels are innermost.
    taps = geometry.kernel[0] * geometry.kernel[1] / (lattice[0] * lattice[1])
    loads += launch.grid[0] * taps * min(tile, channels) * (4 if unit == "c" else item)
    stores = geometry.batch * _bytes(written, out, channels, tile, unit, item)
    # A request of a warp stores a row or two of a tile.
    requested = geometry.batch * _bytes(written, out, channels, tile, unit, item, by_row=True)
    threads = WARP * launch.options["num_warps"]
    rows = -(-values["KERNEL_H"] // values["TAPS_APART_H"])
    products = values["ROWS"] * values["COLUMNS"] * tile / threads * rows
    executed = _executed(facts, products, geometry.kernel[1] / lattice[1] * values["MULTIPLIER"])
    return executed, loads + stores, loads + requested


def _weight_grad(launch: Launch, facts: Facts, geometry: Geometry) -> tuple[float, float, float]:
    values, item = launch.values, geometry.itemsize
    tile, channels = values["CHANNELS"], geometry.channels
    rows, columns, taps_h = values["ROWS"], values["COLUMNS"], values["TAPS_H"]
    kernel, out = geometry.kernel, geometry.out_size
    tap_blocks = -(-kernel[0] // taps_h) * -(-kernel[1] // values["TAPS_W"])
    splits = launch.grid[0] // (tap_blocks * -(-channels // tile))
    tiles = geometry.batch * -(-out[0] // rows) * -(-out[1] // columns)
    images = geometry.size[0] * geometry.size[1] + out[0] * out[1]
    # Each block of taps reads all pixels, and each split the rows around its first tile again.
    halo = splits * (taps_h - 1) * geometry.size[1]
    loads = tap_blocks * channels * item * (geometry.batch * images + halo)
    stores = splits * channels * (kernel[0] * kernel[1] + 1) * _WORKSPACE_ITEM
    threads = WARP * launch.options["num_warps"]
    products = rows * columns * tile / threads * taps_h * values["TAPS_W"]
    executed = _executed(facts, products, tiles / splits)
    return executed, loads + stores, loads + stores


def _elementwise(launch: Launch, facts: Facts, geometry: Geometry) -> tuple[float, float, float]:
    """Weights are packed: one load and one store of each. Sums of splits: less than they cost."""
    weights = geometry.channels * geometry.kernel[0] * geometry.kernel[1]
    moved = weights * (geometry.itemsize + _WORKSPACE_ITEM)
    return facts.instructions, moved, moved


def triton_facts(launch: Launch, facts: Facts, geometry: Geometry) -> LaunchFacts:
    """Of one launch of the library's kernels.

    Args:
        facts: of its code. geometry: of the call that makes it.

    Raises:
        KeyError: a kernel that this function does not know.
    """
    count: Any = {
        "stencil_kernel": _stencil,
        "weight_grad_kernel": _weight_grad,
        "pack_weight_kernel": _elementwise,
        "weight_grad_reduce_kernel": _elementwise,
    }[launch.kernel]
    executed, touched, l2_bytes = count(launch, facts, geometry)
    warps = launch.grid[0] * launch.options["num_warps"]
    loop = facts.loop_instructions or facts.instructions
    fused = facts.loop_fused_multiply_adds if facts.loop_instructions else 0
    return LaunchFacts(
        kernel=launch.kernel,
        registers=facts.registers,
        occupancy=facts.occupancy,
        instructions=warps * executed,
        multiply_adds=warps * executed * fused / loop,
        matrix_instructions=0.0,
        touched_bytes=touched,
        l2_bytes=l2_bytes,
        shared_wavefronts=0.0,
        mma_flops=0.0,
        special_functions=0.0,
    )
