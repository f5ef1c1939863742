"""What a compiled Triton kernel looks like, read from its machine code, and what it must not be.

Uses the disassemblers that triton brings; no GPU and no CUDA toolkit.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from .sass import (
    OPCODE,
    access_width,
    multiply_adds,
    occupancy,
    resident_blocks,
    run_tool,
)
from .triton_stub import SHARED_MEMORY, Launch

# A kernel that is longer has been unrolled out of the instruction cache (128 KiB on sm_90).
MOST_INSTRUCTIONS = 8000
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


def facts_of_json(entry: dict[str, Any]) -> Facts:
    """Of an entry of the baseline, where the keys of dictionaries are strings."""
    values = {name: entry[name] for name in Facts._fields}
    for name in ("load_widths", "store_widths"):
        values[name] = {int(width): count for width, count in entry[name].items()}
    return Facts(**values)


class Plan(NamedTuple):
    """What a configuration was chosen for; `narrow_loads` may have another width, biases say."""

    load_width: int | None = None
    store_width: int | None = None
    matrix: bool = False
    narrow_loads: int = 0


def _loops(sass: str) -> Iterator[Counter[str]]:
    """The instructions between the target of each backward branch and the branch."""
    labels: dict[str, int] = {}
    names: list[str] = []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_\w+):", line)
        if label:
            labels[label[1]] = len(names)
            continue
        opcode = OPCODE.search(line)
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
        usage = run_tool("cuobjdump", "-res-usage", file.name)
        sass = run_tool("nvdisasm", "-c", "-ndf", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    opcodes = OPCODE.findall(sass)
    if found is None or not opcodes:
        raise RuntimeError(f"triton_gate: nothing to read in {metadata.name}")
    registers, stack, local = map(int, found.groups())
    names = Counter(opcode.split(".")[0] for opcode in opcodes)
    loop = max(_loops(sass), key=multiply_adds, default=Counter())
    widths: dict[str, Counter[int]] = {"LDG": Counter(), "STG": Counter()}
    for opcode in opcodes:
        name = opcode.split(".")[0].replace("LDGSTS", "LDG")
        if name in widths:
            widths[name][access_width(opcode)] += 1
    capability, warps = metadata.target.arch, metadata.num_warps
    blocks = resident_blocks(capability, registers, warps, metadata.shared)
    return Facts(
        registers=registers,
        shared_memory=metadata.shared,
        local_memory=stack + local,
        spill_instructions=names["LDL"] + names["STL"],
        instructions=len(opcodes),
        occupancy=occupancy(capability, blocks, warps),
        load_widths=dict(sorted(widths["LDG"].items())),
        store_widths=dict(sorted(widths["STG"].items())),
        barriers=names["BAR"],
        fused_multiply_adds=multiply_adds(names),
        loop_instructions=sum(loop.values()),
        loop_fused_multiply_adds=multiply_adds(loop),
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
    for what, wanted, widths, most in (
        ("load", plan.load_width, facts.load_widths, plan.narrow_loads),
        ("store", plan.store_width, facts.store_widths, 0),
    ):
        if wanted is not None and sum(widths.values()) - widths.get(wanted, 0) > most:
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
    if launch.kernel == "depthwise_conv2d_layer_norm_kernel":
        itemsize = 4 if launch.types["input"] == "*fp32" else 2
        vectors = values["ALL_CHANNELS"] * itemsize % 16 == 0
        return Plan(load_width=16, store_width=16) if vectors else Plan()
    if launch.kernel == "fused_mbconv_kernel":
        return _fused_mbconv_plan(launch)
    if launch.kernel == "pointwise_kernel":
        return _pointwise_plan(launch)
    return Plan()


def _pointwise_plan(launch: Launch) -> Plan:
    values = launch.values
    half = launch.types["input"] != "*fp32"
    if any(values[name] * (2 if half else 4) % 16 for name in ("CHANNELS", "OUT_CHANNELS")):
        return Plan(matrix=half)
    # Of a channel: bias and scale where sums are, two neighbours of every eight; gate and shift
    # four bytes at a time, in each of the steps that are unrolled.
    narrow = _given(launch, "bias", "scale") * values["OUT"] // 8
    steps = launch.options["num_stages"]
    narrow += _given(launch, "gate", "shift") * steps
    if values["OUT"] * values["REDUCTION"] < 32 * launch.options["num_warps"] * (8 if half else 4):
        # A tile of weights has less than a vector for each thread.
        narrow += steps + 1
    return Plan(16, 16, matrix=half, narrow_loads=narrow)


def _given(launch: Launch, *names: str) -> int:
    """How many of the tensors there are."""
    return sum(launch.types[name].startswith("*") for name in names)


def _fused_mbconv_plan(launch: Launch) -> Plan:
    values = launch.values
    half = launch.types["input"] != "*fp32"
    channels = [values[f"{name}CHANNELS"] for name in ("", "EXPANDED_", "OUT_")]
    if any(count * (2 if half else 4) % 16 for count in channels):
        return Plan(matrix=half)
    # Biases: a thread holds two neighbours of every eight columns of sums.
    vectors = 1 + _given(launch, "scale")
    narrow = (values["GROUPS"] * values["EXPANDED"] + vectors * values["OUT"]) // 8
    threads = 32 * launch.options["num_warps"]
    # Steps may be unrolled, and as many as there are stages are loaded before the first.
    terms = values["KERNEL_H"] * values["KERNEL_W"] * values["CHANNELS"]
    steps = -(-terms // values["REDUCTION"]) + launch.options["num_stages"]
    if values["EXPANDED"] * values["REDUCTION"] < threads * (8 if half else 4):
        # A tile of weights has less than a vector for each thread.
        narrow += values["GROUPS"] * steps
    if values["THROUGH_L1"]:
        narrow += values["PIXELS"] * values["REDUCTION"] // (4 * threads) * steps
    return Plan(16, 16, matrix=half, narrow_loads=narrow)
