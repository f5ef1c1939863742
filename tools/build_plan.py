"""What a build of effkern will do, decided before anything is compiled.

Which torch, which compiler, which file with which flags; build_cuda.py adds the GPU's half.
setup.py turns the answers into a build.ninja; the tests call them directly. Standard library only.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# The lowest torch the library loads on; the headers then offer nothing newer. The top byte is the
# major version, the next the minor: 2 << 56 | 11 << 48 is torch 2.11. pyproject.toml requires it.
TORCH_TARGET_VERSION = 0x020B_0000_0000_0000
TORCH_TARGET = (TORCH_TARGET_VERSION >> 56, TORCH_TARGET_VERSION >> 48 & 0xFF)
TORCH_TARGET_TEXT = ".".join(map(str, TORCH_TARGET))

# Instruction sets have files of their own, chosen at run time, so that one build serves every CPU.
# The suffix names the flags; the x86 ones are left out on other machines.
X86_FLAGS: dict[str, list[str]] = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ],
}

VARIABLES = {
    "EFFKERN_BUILD_CUDA": "auto (build the CUDA kernels when nvcc is found), 1 (fail without), 0",
    "EFFKERN_BUILD_EMULATION": "1 (the CUDA kernels for the CPU too, for tests), 0",
    "EFFKERN_CUDA_ARCHS": "for example '80;90+PTX;compute_75'",
    "EFFKERN_NVCC": "path of nvcc",
}

# The default comes first.
CHOICES = {"EFFKERN_BUILD_CUDA": ("auto", "1", "0"), "EFFKERN_BUILD_EMULATION": ("0", "1")}

# Reads torch/version.py without importing torch: 50 ms, and it works for a torch that cannot load.
PROBE = """
import importlib.util, json, pathlib, runpy
root = pathlib.Path(importlib.util.find_spec("torch").origin).parent
version = runpy.run_path(str(root / "version.py"))
print(json.dumps([str(root), version["__version__"], version["cuda"], version.get("hip")]))
"""


def fail(message: str) -> NoReturn:
    """End the build with a message instead of a traceback."""
    raise SystemExit(f"\neffkern cannot be built: {message}\n")


def output(command: list[str]) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(f"{shlex.join(command)} failed:\n{done.stderr}")
    # nvcc --dryrun answers on standard error.
    return done.stdout or done.stderr


@dataclass(frozen=True)
class Torch:
    root: Path
    version: str
    cuda: str | None
    hip: str | None


@dataclass(frozen=True)
class Source:
    """One translation unit.

    `role` is op (torch's stable ABI headers), cuda, or without torch: module, shared (linked into
    the library and the module), isa (an instruction set's kernels). What only the emulated library
    holds is not among them, see build_emulation.py.
    """

    path: Path
    role: str
    flags: list[str] = field(default_factory=list)


def check_variables() -> None:
    """Refuse misspelt build variables: a typo would silently build something else."""
    known = "\n".join(f"  {name}: {meaning}" for name, meaning in VARIABLES.items())
    for name in os.environ:
        build_variable = name.startswith(("EFFKERN_BUILD_", "EFFKERN_CUDA_", "EFFKERN_NVCC"))
        if build_variable and name not in VARIABLES:
            fail(f"{name} is not a build variable. Known are\n{known}")
    for name, values in CHOICES.items():
        value = os.environ.get(name) or values[0]
        if value not in values:
            fail(f"{name} must be one of {', '.join(values)}; got {value!r}")


def _fail_without_torch(python: str) -> NoReturn:
    # uv and build make an interpreter of their own for the build, pip does not.
    for folder, command in (
        ("/builds-v", "uv pip install --no-build-isolation ."),
        ("/build-env-", "python -m build --no-isolation"),
    ):
        if folder in python:
            fail(f"this isolated build hides the installed PyTorch. Run\n\n    {command}\n")
    fail(
        f"it is compiled against the PyTorch that is installed, and {python} has none. Run\n\n"
        f"    {python} -m pip install 'torch>={TORCH_TARGET_TEXT}'\n\nand repeat the installation."
    )


def find_torch(python: str = sys.executable) -> Torch:
    """The torch of the environment that effkern is installed into.

    An isolated build hides it behind PYTHONPATH, which -I ignores; -I also hides a torch in the
    user's site-packages, which the third attempt finds.
    """
    without_path = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for option, env in (("-c", None), ("-Ic", None), ("-c", without_path)):
        command = [python, option, PROBE]
        probe = subprocess.run(command, env=env, capture_output=True, text=True)
        if probe.returncode == 0:
            break
    else:
        _fail_without_torch(python)
    root, version, cuda, hip = json.loads(probe.stdout.splitlines()[-1])
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < TORCH_TARGET:
        fail(
            f"torch {version} is too old, effkern needs {TORCH_TARGET_TEXT} or newer. Run\n\n"
            f"    {sys.executable} -m pip install --upgrade 'torch>={TORCH_TARGET_TEXT}'\n"
        )
    return Torch(Path(root), version, cuda, hip)


def check_setuptools() -> None:
    """Refuse a setuptools that would fail on pyproject.toml's licence, unreadably.

    Nobody else checks what the build requires under --no-build-isolation.
    """
    import setuptools

    # setuptools brings a packaging of its own, which an older one in the environment hides.
    licenses = importlib.util.find_spec("packaging.licenses")
    if int(setuptools.__version__.split(".")[0]) < 77 or licenses is None:
        install = f"{sys.executable} -m pip install --upgrade 'setuptools>=77' 'packaging>=24.2'"
        fail(f"setuptools or packaging is too old. Run\n\n    {install}\n")


def check_compile_tools() -> None:
    """Refuse to start without what compiling takes, as `check_setuptools` does."""
    missing = [name for name in ("pybind11", "ninja") if importlib.util.find_spec(name) is None]
    if missing:
        install = f"{sys.executable} -m pip install pybind11 ninja"
        fail(f"{' and '.join(missing)} missing. Run\n\n    {install}\n")


def find_compiler() -> list[str]:
    """The C++ compiler as a command, from CXX or PATH."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++" if shutil.which("g++") else "c++"]
    if shutil.which(command[0]) is None:
        fail(f"no C++17 compiler: {command[0]} was not found. Install g++ (>= 12), or set CXX.")
    return command


def compiler_version(command: list[str]) -> str:
    """The first line of `g++ --version`."""
    return output([*command, "--version"]).strip().splitlines()[0]


def find_sources(csrc: Path, machine: str, with_cuda: bool) -> list[Source]:
    """Every file that is compiled, by the suffix of its name; nothing lists files by hand."""
    # Ninja starts with the first: nvcc takes longest.
    sources = [Source(path, "cuda") for path in sorted(csrc.rglob("*_cuda.cu")) if with_cuda]
    for path in sorted(csrc.rglob("*.cpp")):
        isa = re.search(r"_cpu_([a-z0-9]+)$", path.stem)
        if path.stem.endswith("_emu") or (csrc / "emulation") in path.parents:
            continue
        if path == csrc / "module.cpp" or path.stem.endswith("_module"):
            sources.append(Source(path, "module"))
        elif isa is None:
            shared = path.stem.endswith("_plan") or path.parent == csrc / "common"
            sources.append(Source(path, "shared" if shared else "op"))
        elif isa[1] not in X86_FLAGS:
            fail(f"{path}: the suffix names no instruction set of {', '.join(X86_FLAGS)}")
        elif machine == "x86_64" or isa[1] == "baseline":
            # gcc 12 warns of its own header of intrinsics.
            flags = [
                *X86_FLAGS[isa[1]],
                "-ffp-contract=fast",
                "-Wno-maybe-uninitialized",
                "-Wno-uninitialized",
            ]
            sources.append(Source(path, "isa", flags))
    return sources


def commit(root: Path) -> str:
    """The git commit being built; '' where `root` is no checkout of its own, such as an sdist."""
    git = ["git", "-C", str(root)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    except OSError:
        return ""
    if top.returncode or Path(top.stdout.strip()).resolve() != root.resolve():
        return ""
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip()


def write_facts(facts: dict[str, str], header: Path) -> None:
    """Hand the facts to csrc/module.cpp as macros; an unchanged file is not touched."""
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"') for k, v in facts.items()}
    lines = ["#pragma once", *(f'#define EFFKERN_{k} "{v}"' for k, v in escaped.items())]
    text = "\n".join(lines) + "\n"
    if not header.exists() or header.read_text() != text:
        header.write_text(text)


def summary(facts: dict[str, str], torch: Torch, nvcc: str) -> str:
    """What is about to be built. It keeps the same facts for `python -m effkern doctor`."""
    kernels = f"nvcc {facts['BUILD_CUDA']} ({nvcc}) for {facts['BUILD_CUDA_ARCHS']}"
    lines = [
        f"effkern {facts['VERSION']} {facts['BUILD_COMMIT']}".rstrip(),
        f"  torch  {torch.version} ({torch.root}), runs on {TORCH_TARGET_TEXT} and newer",
        f"  C++    {facts['BUILD_COMPILER']}",
        "  CUDA   " + (kernels if nvcc else f"not built: {facts['BUILD_CUDA_REASON']}"),
    ]
    return "\n".join(lines)
