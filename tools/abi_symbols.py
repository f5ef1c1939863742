"""Check that a library needs nothing of torch beyond the stable ABI of the target version.

    python tools/abi_symbols.py effkern/libeffkern_ops.so

Fails when the library needs a C++ symbol of torch, a C function newer than the target, or Python.
The version of each function is read from the guards in the installed torch's headers. Weak
references are allowed: they are null where torch lacks the function.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from build_plan import TORCH_TARGET, find_torch

SHIM_HEADERS = (
    "inductor/aoti_torch/c/shim.h",
    "inductor/aoti_torch/generated/c_shim_aten.h",
    "inductor/aoti_torch/generated/c_shim_cpu.h",
    "inductor/aoti_torch/generated/c_shim_cuda.h",
    "stable/c/shim.h",
)
Version = tuple[int, int]
# Functions outside every guard are older than the oldest guard.
BEFORE_GUARDS: Version = (2, 9)


@dataclass
class Report:
    """What a library needs of torch: C functions with the version each appeared in, and faults."""

    functions: dict[str, Version]
    weak: list[str]
    faults: list[str]


def shim_versions(include: Path) -> dict[str, Version]:
    """The torch version in which each function of the C shim appeared."""
    versions: dict[str, Version] = {}
    for header in SHIM_HEADERS:
        # One entry for each open #if: the version it asks for, or None.
        guards: list[Version | None] = []
        for line in (include / "torch/csrc" / header).read_text().splitlines():
            if re.match(r"\s*#\s*if", line):
                guard = re.search(r"TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)_0", line)
                guards.append((int(guard[1]), int(guard[2])) if guard else None)
            elif re.match(r"\s*#\s*endif", line):
                guards.pop()
            for name in re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", line):
                versions.setdefault(name, max(filter(None, guards), default=BEFORE_GUARDS))
    return versions


def undefined_symbols(library: Path) -> dict[str, str]:
    """The dynamic symbols a library does not define itself, with nm's type letter."""
    command = ["nm", "--dynamic", "--undefined-only", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fields = [line.split() for line in listing.splitlines()]
    return {name.split("@")[0]: letter for letter, name in fields}


def check(library: Path, include: Path, target: Version = TORCH_TARGET) -> Report:
    """What `library` needs of torch, judged against `target`; `include` holds torch's headers."""
    versions = shim_versions(include)
    functions: dict[str, Version] = {}
    weak, faults = [], []
    for name, letter in undefined_symbols(library).items():
        if letter in "wv":
            weak.append(name)
        elif re.match(r"_ZN?[A-Z]*?(2at|3c10|5torch|6caffe2)", name):
            faults.append(f"{name}: a C++ symbol of torch, which changes from version to version")
        elif re.match(r"_?Py[A-Z_]", name):
            faults.append(f"{name}: a symbol of Python; the library must not depend on one")
        elif re.match(r"(aoti_)?torch_", name):
            if name not in versions:
                faults.append(f"{name}: not in the shim headers of the installed torch")
            elif versions[name] > target:
                faults.append(f"{name}: appeared in torch {'.'.join(map(str, versions[name]))}")
            functions[name] = versions.get(name, (0, 0))
    return Report(functions, weak, faults)


def main(libraries: list[str]) -> int:
    include = find_torch().root / "include"
    faults = 0
    for library in libraries:
        report = check(Path(library), include)
        newest = max(report.functions.values(), default=BEFORE_GUARDS)
        print(
            f"{library}: {len(report.functions)} functions of torch's C shim, the newest of torch "
            f"{newest[0]}.{newest[1]} (target {TORCH_TARGET[0]}.{TORCH_TARGET[1]})"
        )
        for fault in report.faults:
            print(f"  {fault}")
        faults += len(report.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
