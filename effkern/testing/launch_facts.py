"""What a launch executes and moves, from its machine code and nothing that has run on a GPU."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from ..kernel_names import short_name
from ..prediction import WARP, Ceilings, Work, dram_bytes
from . import cuda_gate
from .launches import Launch
from .sass import multiply_adds
from .sass_interpreter import Interpreter
from .sass_program import Program, split_programs

SECTOR = 32
# FLOPs of a warp's mma.sync, by shape.
_MMA_SHAPES = {"16816": 2 * 16 * 8 * 16, "1688": 2 * 16 * 8 * 8, "1684": 2 * 16 * 8 * 4}
_WARPGROUP_SHAPE = re.compile(r"HGMMA\.(\d+)x(\d+)x(\d+)\.")


@dataclass(frozen=True)
class LaunchFacts:
    """Of a whole launch.

    Attributes:
        kernel: its name. registers, occupancy: as the gates have them.
        instructions, multiply_adds: issued by warps. matrix_instructions: those of tensor cores.
        touched_bytes: of 32-byte sectors of global memory, each once per block.
        l2_bytes: the same of loads; of stores, those of every request.
    """

    kernel: str
    registers: int
    occupancy: float
    instructions: float
    multiply_adds: float
    matrix_instructions: float
    touched_bytes: float
    l2_bytes: float
    shared_wavefronts: float
    mma_flops: float
    special_functions: float

    def scaled(self, factor: float) -> LaunchFacts:
        """Of `factor` times the work."""
        return replace(
            self,
            instructions=self.instructions * factor,
            multiply_adds=self.multiply_adds * factor,
            matrix_instructions=self.matrix_instructions * factor,
            touched_bytes=self.touched_bytes * factor,
            l2_bytes=self.l2_bytes * factor,
            shared_wavefronts=self.shared_wavefronts * factor,
            mma_flops=self.mma_flops * factor,
            special_functions=self.special_functions * factor,
        )

    def work(self, distinct: float, window: float, ceilings: Ceilings) -> Work:
        """Args: as for `effkern.prediction.dram_bytes`; the rest is what was touched."""
        return Work(
            instructions=self.instructions,
            dram_bytes=dram_bytes(self.touched_bytes, distinct, window, ceilings),
            l2_bytes=self.l2_bytes,
            shared_wavefronts=self.shared_wavefronts,
            mma_flops=self.mma_flops,
            special_functions=self.special_functions,
        )


def works(
    facts: list[LaunchFacts], distinct: float, window: float, ceilings: Ceilings
) -> list[Work]:
    """Of the launches of one call: the one that touches most moves operands and result; what the
    others read has just been written, and comes from L2 if it fits.

    Args:
        distinct: bytes of operands and result. window: see `effkern.prediction.dram_bytes`.
    """
    main = max(facts, key=lambda found: found.touched_bytes)
    return [
        found.work(distinct, window, ceilings)
        if found is main
        else found.work(0, found.touched_bytes, ceilings)
        for found in facts
    ]


@cache
def _codes(library: Path, capability: int) -> dict[str, str]:
    codes = split_programs(cuda_gate.dump(library, capability, "-sass"))
    short = cuda_gate.shorten(list(codes))
    return {short[name]: code for name, code in codes.items()}


@cache
def kernel_program(library: Path, capability: int, kernel: str) -> Program:
    """The code of a kernel by its short name."""
    return Program(_codes(library, capability)[kernel])


@cache
def _static_facts(library: Path, capability: int) -> dict[str, cuda_gate.Facts]:
    return cuda_gate.read(library, capability)


def sample_blocks(blocks: int, count: int) -> np.ndarray:
    """Numbers of `count` blocks, one from each of as many equal parts; the same each time."""
    if blocks <= count:
        return np.arange(blocks)
    inside = np.random.default_rng(0).random(count)
    return ((np.arange(count) + inside) * blocks / count).astype(np.int64)


def _mma_flops(opcode: str) -> float:
    """Of one warp's instruction; four warps share one of a warpgroup."""
    if match := _WARPGROUP_SHAPE.match(opcode):
        return 2 * math.prod(map(int, match.groups())) / 4
    shapes = (_MMA_SHAPES.get(part, 0) for part in opcode.split(".")[1:])
    return max(shapes, default=0) if opcode.startswith("HMMA") else 0


def cuda_facts(
    launch: Launch,
    library: Path,
    capability: int,
    lanes: int = 1536,
    most_steps: int = 100_000,
) -> LaunchFacts:
    """Of one launch of a kernel in a built library, by running the control flow and addresses of
    some of its blocks.

    Args:
        lanes: that are run of a launch; the rest of its blocks are taken to be like theirs.
        most_steps: of that run, see `Interpreter.run`.

    Raises:
        KeyError: the library has no such kernel.
        RuntimeError: the code cannot be read; what it does depends on data; it runs for too long.
    """
    name = short_name(launch.kernel)
    static = _static_facts(library, capability)[name]
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    blocks = sample_blocks(launch.blocks, max(4, lanes // threads))
    interpreter = Interpreter(
        kernel_program(library, capability, name),
        capability,
        launch.grid,
        launch.block,
        launch.parameters,
        blocks,
    )
    opcodes = interpreter.run(most_steps)
    names: Counter[str] = Counter()
    for opcode, count in opcodes.items():
        names[opcode.split(".")[0]] += count
    share, traffic = launch.blocks / len(blocks), interpreter.traffic
    loads, stores = traffic.global_loads, traffic.global_stores
    return LaunchFacts(
        kernel=name,
        registers=static.registers,
        occupancy=static.occupancy,
        instructions=share * names.total(),
        multiply_adds=share * multiply_adds(names),
        matrix_instructions=share * (names["HMMA"] + names["HGMMA"]),
        touched_bytes=share * SECTOR * (loads.unique_sectors + stores.unique_sectors),
        l2_bytes=share * SECTOR * (loads.unique_sectors + stores.sectors),
        shared_wavefronts=share
        * (traffic.shared_loads.wavefronts + traffic.shared_stores.wavefronts),
        mma_flops=share * sum(count * _mma_flops(opcode) for opcode, count in opcodes.items()),
        special_functions=share * WARP * names["MUFU"],
    )
