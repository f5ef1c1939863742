"""Fail when a compiled CUDA kernel spills registers or uses local memory.

    NVCC_APPEND_FLAGS='-Xptxas -v' python setup.py build_ext --inplace --force > build.log 2>&1
    python tools/cuda_resources.py build.log

Reads what ptxas -v printed. --arch names the architectures that must have been compiled.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture: registers per thread; stack and spills in bytes."""

    name: str
    arch: str
    registers: int
    stack: int
    spills: int


ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def parse(log: str) -> list[Kernel]:
    """The kernels in a log of ptxas -v: each is an entry, memory, registers."""
    kernels = []
    entry: tuple[str, str] | None = None
    stack = spills = 0
    for line in log.splitlines():
        if match := ENTRY.search(line):
            if entry:
                raise ValueError(f"the log is interleaved: {entry[0]} has no end; use MAX_JOBS=1")
            entry, stack, spills = (match[1], match[2]), 0, 0
        elif match := MEMORY.search(line):
            stack += int(match[1])
            spills += int(match[2]) + int(match[3])
        elif (match := REGISTERS.search(line)) and entry:
            kernels.append(Kernel(*entry, int(match[1]), stack, spills))
            entry = None
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--arch", nargs="*", default=["sm_80", "sm_90"])
    options = parser.parse_args()
    kernels = parse(options.log.read_text())
    missing = set(options.arch) - {kernel.arch for kernel in kernels}
    for arch in sorted(missing):
        print(f"no kernel was compiled for {arch}, or ptxas -v was not on")
    for arch in sorted({kernel.arch for kernel in kernels}):
        registers = [kernel.registers for kernel in kernels if kernel.arch == arch]
        print(f"{arch}: {len(registers)} kernels, at most {max(registers)} registers per thread")
    bad = [kernel for kernel in kernels if kernel.stack or kernel.spills]
    names = subprocess.run(
        ["c++filt"], input="\n".join(k.name for k in bad), capture_output=True, text=True
    ).stdout.splitlines()
    for kernel, name in zip(bad, names, strict=True):
        print(f"{kernel.arch}: {kernel.stack} bytes stack, {kernel.spills} bytes spilled: {name}")
    return 1 if bad or missing else 0


if __name__ == "__main__":
    sys.exit(main())
