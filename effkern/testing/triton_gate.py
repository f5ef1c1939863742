"""What a compiled Triton kernel looks like, read from its machine code, and what it must not be.

Uses the disassemblers that triton brings; no GPU and no CUDA toolkit.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .triton_stub import SHARED_MEMORY, Launch

# A kernel that is longer has been unrolled out of the instruction cache (128 KiB on sm_90).
MOST_INSTRUCTIONS = 8000
# (warps, bytes of shared memory) of a multiprocessor, from the CUDA programming guide.
_MULTIPROCESSOR = {
    80: (64, 164 << 10),
    90: (64, 228 << 10),
    100: (64, 228 << 10),
    120: (48, 100 << 10),
}
_REGISTERS = 65536
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
_MATRIX = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}


class Facts(NamedTuple):
    """Counts are instructions of the whole kernel, or of the loop with the most multiply-adds.
    Widths are bytes per thread and access, with how many instructions have them."""

    registers: int
    shared_memory: int
    local_memory: int
    spill_instructions: int
    instructions: int
    occupancy: float
    load_widths: dict[int, int]
    store_widths: dict[int, int]
    barriers: int
    fused_multiply_adds: int
    loop_instructions: int
    loop_fused_multiply_adds: int
    matrix_instructions: dict[str, int]


class Plan(NamedTuple):
    """What a configuration was chosen for."""

    load_width: int | None = None
    store_width: int | None = None
    matrix: bool = False


def _tool(name: str, *arguments: str) -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    command = [str(folder / name), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"triton_gate: {name} failed: {finished.stderr.strip()[:300]}")
    return finished.stdout


def _width(opcode: str) -> int:
    for part in opcode.split(".")[1:]:
        if part in ("128", "64"):
            return int(part) // 8
        if part in ("U16", "S16"):
            return 2
        if part in ("U8", "S8"):
            return 1
    return 4


def _occupancy(capability: int, registers: int, warps: int, shared_memory: int) -> float:
    """Resident warps over the most there can be, by registers, shared memory and warps."""
    most_warps, most_shared = _MULTIPROCESSOR[capability]
    per_warp = -(-registers * 32 // 256) * 256
    blocks = min(_REGISTERS // (per_warp * warps), most_warps // warps)
    if shared_memory:
        blocks = min(blocks, most_shared // (shared_memory + 1024))
    return round(blocks * warps / most_warps, 3)


def _multiply_adds(names: Counter[str]) -> int:
    return names["FFMA"] + 2 * names["FFMA2"] + names["FHFMA"] + names["DFMA"]


def _loops(sass: str) -> Iterator[Counter[str]]:
    """The instructions between the target of each backward branch and the branch."""
    labels: dict[str, int] = {}
    names: list[str] = []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_\w+):", line)
        if label:
            labels[label[1]] = len(names)
            continue
        opcode = _INSTRUCTION.search(line)
        if opcode is None:
            continue
        names.append(opcode[1].split(".")[0])
        target = re.search(r"`\((\.L_\w+)\)", line)
        # A kernel ends in a branch to itself.
        if names[-1] == "BRA" and target and labels.get(target[1], len(names)) < len(names) - 1:
            yield Counter(names[labels[target[1]] :])


def facts(binary: Any) -> Facts:
    """Of a CompiledKernel, as `Launch.compile` gives it.

    Raises:
        RuntimeError: the code cannot be disassembled.
    """
    metadata = binary.metadata
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        sass = _tool("nvdisasm", "-c", "-ndf", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    opcodes = _INSTRUCTION.findall(sass)
    if found is None or not opcodes:
        raise RuntimeError(f"triton_gate: nothing to read in {metadata.name}")
    registers, stack, local = map(int, found.groups())
    names = Counter(opcode.split(".")[0] for opcode in opcodes)
    loop = max(_loops(sass), key=_multiply_adds, default=Counter())
    widths: dict[str, Counter[int]] = {"LDG": Counter(), "STG": Counter()}
    for opcode in opcodes:
        name = opcode.split(".")[0].replace("LDGSTS", "LDG")
        if name in widths:
            widths[name][_width(opcode)] += 1
    capability = metadata.target.arch
    return Facts(
        registers=registers,
        shared_memory=metadata.shared,
        local_memory=stack + local,
        spill_instructions=names["LDL"] + names["STL"],
        instructions=len(opcodes),
        occupancy=_occupancy(capability, registers, metadata.num_warps, metadata.shared),
        load_widths=dict(sorted(widths["LDG"].items())),
        store_widths=dict(sorted(widths["STG"].items())),
        barriers=names["BAR"],
        fused_multiply_adds=_multiply_adds(names),
        loop_instructions=sum(loop.values()),
        loop_fused_multiply_adds=_multiply_adds(loop),
        matrix_instructions={name: names[name] for name in _MATRIX.values() if names[name]},
    )


def faults(facts: Facts, plan: Plan, capability: int) -> list[str]:
    """What forbids to ship a kernel, in words; none if it may be."""
    found = []
    if facts.shared_memory > SHARED_MEMORY[capability]:
        limit = SHARED_MEMORY[capability]
        found.append(f"shared memory: wanted at most {limit} bytes, got {facts.shared_memory}")
    if facts.spill_instructions:
        found.append(f"registers: wanted no spills, got {facts.spill_instructions} LDL and STL")
    if facts.local_memory:
        found.append(f"local memory: wanted none, got {facts.local_memory} bytes")
    if facts.instructions > MOST_INSTRUCTIONS:
        found.append(
            f"code: wanted at most {MOST_INSTRUCTIONS} instructions, got {facts.instructions}"
        )
    for what, wanted, widths in (
        ("load", plan.load_width, facts.load_widths),
        ("store", plan.store_width, facts.store_widths),
    ):
        if wanted is not None and set(widths) - {wanted}:
            got = ", ".join(f"{count} of {width}" for width, count in widths.items())
            found.append(f"{what} width: wanted {wanted} bytes everywhere, got {got}")
    if plan.matrix and _MATRIX[capability] not in facts.matrix_instructions:
        got = ", ".join(facts.matrix_instructions) or "none"
        found.append(f"matrix instruction: wanted {_MATRIX[capability]}, got {got}")
    return found


def plan(launch: Launch) -> Plan:
    """The access widths that a launch of the library's kernels was planned for.

    Vectors of channels, where image tensors are channels_last and all channels, strides and
    addresses are multiples of 16 bytes; elsewhere single elements, neighbours in a row.
    """
    values = launch.values
    units = [value for name, value in values.items() if name.endswith("_UNIT") and value]
    vector = values.get("VECTOR", 1)
    if launch.kernel == "stencil_kernel" and units and set(units) == {"c"} and vector > 1:
        return Plan(load_width=16, store_width=16)
    if launch.kernel == "weight_grad_kernel" and set(units) == {"c"} and vector > 1:
        # Sums are stored once, a channel at a time.
        return Plan(load_width=16)
    return Plan()
