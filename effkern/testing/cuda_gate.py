"""What the CUDA kernels of a built library look like in machine code, and what they must not be.

Uses cuobjdump and c++filt; no GPU, nothing is compiled.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..kernel_names import short_name
from .sass import (
    OPCODE,
    RESERVED_SHARED_MEMORY,
    access_width,
    multiply_adds,
    occupancy,
    resident_blocks,
    run_tool,
)

# The longest kernel has about 4000, of 16 bytes each. An eighth more is a kernel that has been
# unrolled by mistake.
MOST_INSTRUCTIONS = 4500
# Bytes per block without cudaFuncAttributeMaxDynamicSharedMemorySize, on every device.
MOST_SHARED_MEMORY = 48 << 10
# With it, on every device since sm_80: for kernels whose launcher sets it.
MOST_OPTED_SHARED_MEMORY = 99 << 10
# kMaxStagedBytes of depthwise_conv2d_tiling.cuh.
_STAGED_BYTES = 32 << 10
# kToeplitzMostBytes of depthwise_conv2d_toeplitz_block_tiling.cuh.
_TOEPLITZ_BYTES = 75 << 10

_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_THREADS = re.compile(r"EIATTR_MAX_THREADS\s+Format:\s*\S+\s+Value:\s*(0x\w+) (0x\w+) (0x\w+)")
_COMPILER = re.compile(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)")
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


class Usage(NamedTuple):
    """Registers per thread; bytes per thread (stack, local) and per block (shared)."""

    registers: int
    stack: int
    shared: int
    local: int


class Facts(NamedTuple):
    """Of one kernel on one architecture. Widths are bytes per thread and access to global memory,
    with how many instructions have them; shared memory is the static part, in bytes; threads are
    those of a block; blocks are resident ones, whatever a launch asks for dynamically."""

    registers: int
    local_memory: int
    spill_instructions: int
    shared_memory: int
    threads: int
    blocks: int
    occupancy: float
    instructions: int
    fused_multiply_adds: int
    load_widths: dict[int, int]
    store_widths: dict[int, int]


class Access(NamedTuple):
    """At least `least` accesses of `width` bytes; all others are as wide as one of `others`."""

    width: int
    least: int
    others: tuple[int, ...] = ()


class Plan(NamedTuple):
    """What a kernel was written for; None: nothing is planned. Dynamic shared memory in bytes, and
    the most that the launcher may ask for."""

    load: Access | None = None
    store: Access | None = None
    dynamic_shared_memory: int = 0
    most_shared_memory: int = MOST_SHARED_MEMORY


def nvcc_version(library: Path) -> str:
    """The compiler's version, as its machine code tells it: 13.0.88; several, if mixed."""
    found = {match.decode() for match in _COMPILER.findall(library.read_bytes())}
    return " and ".join(sorted(found)) or "unknown"


def capabilities(library: Path) -> tuple[int, ...]:
    """Those that the library has machine code for: 90 for sm_90. None without CUDA code."""
    try:
        listing = run_tool("cuobjdump", "--list-elf", str(library))
    except RuntimeError:
        # Its answer to a file without device code; to one that cannot be read, as well.
        library.stat()
        return ()
    return tuple(sorted({int(number) for number in re.findall(r"\.sm_(\d+)\w*\.cubin", listing)}))


def parse_usage(text: str) -> dict[str, Usage]:
    """By mangled name, from `cuobjdump -res-usage`."""
    return {name: Usage(*map(int, numbers)) for name, *numbers in _USAGE.findall(text)}


def parse_threads(text: str) -> dict[str, int]:
    """The threads of a block, where __launch_bounds__ tells, from `cuobjdump -elf`."""
    threads = {}
    for section in re.split(r"^\.nv\.info\.", text, flags=re.MULTILINE)[1:]:
        # Another section's text may follow.
        section = re.split(r"^\.", section, maxsplit=1, flags=re.MULTILINE)[0]
        if match := _THREADS.search(section):
            x, y, z = (int(value, 16) for value in match.groups())
            threads[section.split(None, 1)[0]] = x * y * z
    return threads


def parse_sass(text: str) -> dict[str, Counter[str]]:
    """How often each opcode with its modifiers occurs, from `cuobjdump -sass`."""
    kernels = {}
    for section in text.split("Function : ")[1:]:
        name, code = section.split("\n", 1)
        kernels[name.strip()] = Counter(OPCODE.findall(code))
    return kernels


def shorten(names: list[str]) -> dict[str, str]:
    """Mangled names to kernel<type, constants, policy>: torch's dtypes, no namespace."""
    finished = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return {
        name: short_name(text)
        for name, text in zip(names, finished.stdout.splitlines(), strict=True)
    }


def facts(usage: Usage, threads: int, opcodes: Counter[str], capability: int) -> Facts:
    """Of one kernel, from what was parsed; `threads` is 0 where it is not known."""
    names: Counter[str] = Counter()
    widths: dict[str, Counter[int]] = {"LD": Counter(), "ST": Counter()}
    # LD and ST are generic: the compiler did not see that the memory is global.
    kinds = {"LDG": "LD", "LDGSTS": "LD", "LD": "LD", "STG": "ST", "ST": "ST"}
    for opcode, count in opcodes.items():
        name = opcode.split(".")[0]
        names[name] += count
        if name in kinds:
            widths[kinds[name]][access_width(opcode)] += count
    # What the system reserves in each block is in the figures of these devices.
    shared = max(0, usage.shared - RESERVED_SHARED_MEMORY) if capability >= 90 else usage.shared
    warps = -(-threads // 32)
    blocks = resident_blocks(capability, usage.registers, warps, shared) if warps else 0
    return Facts(
        registers=usage.registers,
        local_memory=usage.stack + usage.local,
        spill_instructions=names["LDL"] + names["STL"],
        shared_memory=shared,
        threads=threads,
        blocks=blocks,
        occupancy=occupancy(capability, blocks, warps),
        # NOPs fill up the end.
        instructions=names.total() - names["NOP"],
        fused_multiply_adds=multiply_adds(names),
        load_widths=dict(sorted(widths["LD"].items())),
        store_widths=dict(sorted(widths["ST"].items())),
    )


@cache
def dump(library: Path, capability: int, what: str) -> str:
    """What cuobjdump prints: -sass, -elf or -res-usage."""
    return run_tool("cuobjdump", "-arch", f"sm_{capability}", what, str(library))


def read(library: Path, capability: int) -> dict[str, Facts]:
    """Every kernel of a library on one architecture, by its short name.

    Raises:
        FileNotFoundError: cuobjdump or c++filt is not there.
        RuntimeError: the machine code cannot be read.
    """
    usage = parse_usage(dump(library, capability, "-res-usage"))
    threads = parse_threads(dump(library, capability, "-elf"))
    sass = parse_sass(dump(library, capability, "-sass"))
    if not usage or usage.keys() != sass.keys() or not all(sass.values()):
        raise RuntimeError(
            f"cuobjdump: wanted the code of {len(usage)} kernels for sm_{capability} in "
            f"{library.name}, got that of {len(sass)}"
        )
    return {
        short: facts(usage[name], threads.get(name, 0), sass[name], capability)
        for name, short in sorted(shorten(list(usage)).items(), key=lambda item: item[1])
    }


def plan(name: str) -> Plan:
    """The accesses that a kernel of the library was written for.

    The counts are those of the source's unrolled loops: csrc/depthwise_conv2d/*_kernel.cuh. Weights
    and bias are read one element at a time, and so are tails of contiguous rows.

    Raises:
        KeyError: a kernel that this function does not know.
    """
    family, arguments = name.rstrip(">").split("<")
    if family == "depthwise_conv2d_transpose_kernel":
        return Plan(Access(16, 4), Access(16, 4))
    dtype, *rest = arguments.split(", ")
    element = _BYTES[dtype]
    if "_strided_" in family or family.endswith("_reduce_kernel"):
        return Plan()
    sizes = [int(size) for size in rest if size.isdigit()]
    kernel, stride = sizes[0], sizes[1] if len(sizes) > 1 else 2
    reach = (kernel + 1) // 2
    # ChannelsLastShape of depthwise_conv2d_tile.cuh.
    channels = 8 if element == 2 and kernel <= 3 else 4
    vector = channels * element
    # Sums of the weight gradient are in float32.
    sums = Access(4, 1)
    # Scales and shifts are read, and sums of the output stored, one float32 at a time.
    hooks = (4,) if rest[-1] == "Hooked" else ()
    match family.removeprefix("depthwise_conv2d_"):
        case "fused_mbconv_kernel":
            # Weights and input by cp.async; residual and output in rows of 32 channels, 8 pixels of
            # a warp at a time. What FusedMBConvPlan allows.
            images = Access(16, 8, (element,))
            return Plan(images, Access(16, 8), MOST_OPTED_SHARED_MEMORY, MOST_OPTED_SHARED_MEMORY)
        case "pointwise_kernel":
            # All images, weights and vectors. Of an activated kernel a lane stores 2 vectors at a
            # time, of others 4. What PointwiseCudaPlan allows.
            stores = Access(16, 2 if rest[-1] == "true" else 4)
            return Plan(Access(16, 8), stores, MOST_OPTED_SHARED_MEMORY, MOST_OPTED_SHARED_MEMORY)
        case "layer_norm_kernel":
            # Three rows of columns; bias in vectors, norm_weight and norm_bias 16 bytes at a time,
            # mean and rstd a number at a time. What DepthwiseConv2dLayerNormCudaPlan allows.
            pixels = 16 // channels
            load = Access(vector, 3 * (pixels + kernel - 1), (element, 16))
            store = Access(vector, 2 * pixels, (4,))
            return Plan(load, store, MOST_OPTED_SHARED_MEMORY, MOST_OPTED_SHARED_MEMORY)
        case "channels_last_kernel":
            pixels = 16 // channels
            load = Access(vector, stride * ((pixels - 1) * stride + kernel), (element, *hooks))
            return Plan(load, Access(vector, pixels, hooks))
        case "channels_last_grad_input_kernel":
            # Before the loop and in it, which is unrolled as often as rows stay in registers.
            quads = 8 // channels
            load = Access(vector, 2 * reach * (reach + quads - 1), (element,))
            return Plan(load, Access(vector, 4 * quads * reach))
        case "channels_last_gradients_kernel":
            # 4 pixels of the input and, with a border, of grad_output; 4 of grad_input.
            vector = 4 * element
            return Plan(Access(vector, 10, (element,)), Access(vector, 4, (4,)))
        case "channels_last_wgrad_kernel":
            return Plan(Access(vector, 4 + 3 * stride + kernel), sums)
        case "contiguous_kernel" | "contiguous_grad_input_kernel":
            # Runs of planes, four vectors at a time; ends, weights and views one element at a time.
            vectors = Access(16, 4, (element, *hooks))
            return Plan(vectors, vectors, _STAGED_BYTES)
        case "toeplitz_kernel" | "toeplitz_large_kernel":
            # A lane stores the pairs of two windows in as many rows as the kernel has, or 8.
            rows = 8 if "large" in family else kernel
            copies = Access(16, 1, (8, 4, element))
            return Plan(copies, Access(2 * element, 2 * rows, (element,)), MOST_SHARED_MEMORY)
        case "toeplitz_channels_last_kernel" | "toeplitz_channels_last_large_kernel":
            # 16 pixels of 16 channels are read at a time, four times. A lane stores 4 channels of 2
            # windows in 7 rows: 4 lanes fill a sector.
            copies = Access(16, 4, (element, *hooks))
            stores = Access(8, 14, hooks)
            return Plan(copies, stores, _TOEPLITZ_BYTES, MOST_OPTED_SHARED_MEMORY)
        case "toeplitz_planes_kernel":
            # One element, or vectors of up to four where rows are aligned, of 8 planes at a time.
            load, store = Access(8, 8, (4, element)), Access(8, 8, (4, element))
            return Plan(load, store, _TOEPLITZ_BYTES, MOST_OPTED_SHARED_MEMORY)
        case "contiguous_wgrad_mma_kernel":
            # kMaxWeightGradMmaBytes of depthwise_conv2d_wgrad_mma_launch.cuh.
            return Plan(Access(16, 2, (8, 4, element)), sums, 46 << 10)
        case "channels_last_wgrad_mma_kernel":
            # 4 channels of a pixel of grad_output and of two of the input: WeightGradCopies. Five
            # stages of 8 images of 4 cells: tile_cells.
            return Plan(Access(8, 3), sums, 5 * 8448)
        case "contiguous_wgrad_kernel":
            # Runs of two tensors' planes, four vectors at a time.
            return Plan(Access(16, 8, (element,)), sums, _STAGED_BYTES)
    raise KeyError(name)


def _width_faults(what: str, wanted: Access | None, widths: dict[int, int]) -> list[str]:
    if wanted is None or (
        widths.get(wanted.width, 0) >= wanted.least
        and not set(widths) - {wanted.width, *wanted.others}
    ):
        return []
    got = ", ".join(f"{count} of {width}" for width, count in widths.items()) or "none"
    others = " and ".join(map(str, wanted.others)) or "no other"
    return [
        f"{what} width: wanted at least {wanted.least} of {wanted.width} bytes and others of "
        f"{others}, got {got}"
    ]


def faults(name: str, facts: Facts) -> list[str]:
    """What forbids to ship a kernel, in words; none if it may be."""
    found = []
    if facts.spill_instructions:
        found.append(f"registers: wanted no spills, got {facts.spill_instructions} LDL and STL")
    if facts.local_memory:
        found.append(f"local memory: wanted none, got {facts.local_memory} bytes")
    if not facts.blocks:
        got = f"{facts.threads} threads of {facts.registers} registers" if facts.threads else "none"
        found.append(f"block: wanted __launch_bounds__ that fit the device, got {got}")
    if facts.instructions > MOST_INSTRUCTIONS:
        found.append(
            f"code: wanted at most {MOST_INSTRUCTIONS} instructions, got {facts.instructions}"
        )
    try:
        wanted = plan(name)
    except (KeyError, ValueError, IndexError):
        return [*found, "plan: wanted an entry in effkern/testing/cuda_gate.py, got none"]
    shared = facts.shared_memory + wanted.dynamic_shared_memory
    if shared > wanted.most_shared_memory:
        most = wanted.most_shared_memory
        found.append(f"shared memory: wanted at most {most} bytes, got {shared}")
    found += _width_faults("load", wanted.load, facts.load_widths)
    return found + _width_faults("store", wanted.store, facts.store_widths)
