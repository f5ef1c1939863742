"""What a run is measured on: device, CPU, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import effkern
from effkern import _library

_PACKAGES = (
    "torch", "effkern", "triton", "timm", "onnxruntime", "openvino", "ncnn", "ai-edge-litert",
)  # fmt: skip
_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "asimd")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _cpuinfo(key: str) -> str:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_bytes() -> dict[str, int]:
    """Data cache sizes of the first core, by level: {"L1": bytes, ...}; empty if unknown."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            values = [(folder / name).read_text().strip() for name in ("level", "type", "size")]
        except OSError:
            continue
        level, kind, size = values
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return sizes


def _git(*arguments: str) -> str | None:
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, Any]:
    """The checkout's commit, and whether files differ from it.

    Outside of git, sha is what EFFKERN_COMMIT says, or None.
    """
    sha = _git("rev-parse", "HEAD")
    if sha is None and os.environ.get("EFFKERN_COMMIT"):
        return {"sha": os.environ["EFFKERN_COMMIT"], "dirty": False}
    return {"sha": sha, "dirty": sha is None or bool(_git("status", "--porcelain"))}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["torch"] = torch.__version__
    found["effkern"] = effkern.__version__
    found["cuda"] = torch.version.cuda
    found["cudnn"] = str(torch.backends.cudnn.version()) if torch.cuda.is_available() else None
    return found


def facts(device: str) -> dict[str, Any]:
    """The machine, for the results file; sizes in bytes."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    error = _library.load_error()
    found: dict[str, Any] = {
        "device": device,
        "cpu": cpu_model(),
        "cpu_cores": cpu_cores(),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cpu_instruction_set": instruction_set(),
        "cache_bytes": cache_bytes(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "native_library": error is None,
        "native_library_error": str(error) if error else None,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
        }
    return found


def instruction_set() -> str:
    """The instruction set that the CPU kernels run with, as far as this process can tell."""
    try:
        from effkern import _C
    except ImportError:
        return f"torch: {torch.backends.cpu.get_cpu_capability()}"
    return _C.cpu_isa()


def load_average() -> float | None:
    """Runnable tasks over the last minute: above the cores in use, others were measured too."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def slug(device: str) -> str:
    """The name of the results folder, such as "cpu-amd-epyc-avx512-2c" or "cuda-nvidia-h200".

    Virtual machines hide a processor's generation behind one name: AVX-512 tells some apart.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_model()
    name = re.sub(r"\((?:r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", name.lower())
    words = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if device == "cuda":
        return f"{device}-{words}"
    wide = "-avx512" if "avx512f" in _cpuinfo("flags").split() else ""
    return f"{device}-{words}{wide}-{cpu_cores()}c"


class Run:
    """When a run started, and what every results file says of the run that wrote it."""

    def __init__(self) -> None:
        self._started, self._start = datetime.now(timezone.utc), time.monotonic()

    def header(self, kind: str) -> dict[str, Any]:
        return {
            "schema": 1,
            "kind": kind,
            "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": time.monotonic() - self._start,
            "commit": commit(),
            "versions": versions(),
        }
