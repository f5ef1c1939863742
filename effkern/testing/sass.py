"""Reading the machine code of NVIDIA GPUs: what the gates of CUDA and Triton kernels share."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

# Of a line of cuobjdump or nvdisasm: the opcode with its modifiers, LDG.E.128.CONSTANT.
OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
# (warps, bytes of shared memory) of a multiprocessor, from the CUDA programming guide.
_MULTIPROCESSOR = {
    80: (64, 164 << 10),
    90: (64, 228 << 10),
    100: (64, 228 << 10),
    120: (48, 100 << 10),
}
_REGISTERS = 65536
# Bytes of a multiprocessor's shared memory that each block costs beyond its own.
RESERVED_SHARED_MEMORY = 1024


def find_tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: the one that triton brings, else the one in PATH, else None."""
    spec = importlib.util.find_spec("triton")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "backends", "nvidia", "bin", name)
        if path.is_file():
            return str(path)
    return shutil.which(name)


def run_tool(name: str, *arguments: str) -> str:
    """What a disassembler prints.

    Raises:
        FileNotFoundError: it is neither in the triton package nor in PATH.
        RuntimeError: it fails.
    """
    path = find_tool(name)
    if path is None:
        raise FileNotFoundError(f"{name}: wanted it in the triton package or in PATH, got neither")
    finished = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{name} failed: {finished.stderr.strip()[:300]}")
    return finished.stdout


def access_width(opcode: str) -> int:
    """Bytes per thread of a load or store."""
    for part in opcode.split(".")[1:]:
        if part in ("256", "128", "64"):
            return int(part) // 8
        if part in ("U16", "S16"):
            return 2
        if part in ("U8", "S8"):
            return 1
    return 4


def multiply_adds(names: Mapping[str, int]) -> int:
    """Fused multiply-adds on scalars among instructions counted by name."""
    count = Counter(names)
    return count["FFMA"] + 2 * count["FFMA2"] + count["FHFMA"] + count["DFMA"]


def resident_blocks(capability: int, registers: int, warps: int, shared_memory: int) -> int:
    """Blocks of a multiprocessor, by registers per thread, warps and bytes of shared memory."""
    most_warps, most_shared = _MULTIPROCESSOR[capability]
    per_warp = -(-registers * 32 // 256) * 256
    blocks = min(_REGISTERS // (per_warp * warps), most_warps // warps)
    if shared_memory:
        blocks = min(blocks, most_shared // (shared_memory + RESERVED_SHARED_MEMORY))
    return blocks


def occupancy(capability: int, blocks: int, warps: int) -> float:
    """Warps of the resident blocks over the most that there can be."""
    return round(blocks * warps / _MULTIPROCESSOR[capability][0], 3)
