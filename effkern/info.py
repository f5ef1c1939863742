"""What is installed, what it was built with, and what this machine offers."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from . import _library, registry

_PACKAGES = ("effkern", "torch", "triton", "numpy", "timm", "torchvision")
_MIN_CAPABILITY = (7, 5)


def _choice(*known: str) -> Callable[[str], list[str]]:
    return lambda value: [] if value in known else [value]


def _unknown_backends(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    return [name for name in names if name and name not in registry.BACKENDS]


def _anything(value: str) -> list[str]:
    return []


@dataclass(frozen=True)
class _Variable:
    """An environment variable: its effect, the values it takes, and what is unknown in a value."""

    effect: str
    values: str
    unknown: Callable[[str], list[str]] = _anything


_BACKEND_NAMES = ", ".join(registry.BACKENDS)
_CPU_NAMES = ("baseline", "avx2", "avx512", "avx512_bf16")
VARIABLES: dict[str, _Variable] = {
    "EFFKERN_BACKEND": _Variable(
        "the default backend", _BACKEND_NAMES, _choice(*registry.BACKENDS)
    ),
    "EFFKERN_CPU": _Variable(
        "the CPU kernels' instruction set, by default the best that the processor has",
        ", ".join(_CPU_NAMES),
        _choice(*_CPU_NAMES),
    ),
    "EFFKERN_BUILD_CUDA": _Variable(
        "at build time: CUDA kernels if there is nvcc, always, never",
        "auto, 1, 0",
        _choice("auto", "1", "0"),
    ),
    "EFFKERN_CUDA_ARCHS": _Variable(
        "at build time: the CUDA architectures", "a list such as '80;90+PTX'"
    ),
    "EFFKERN_NVCC": _Variable("at build time: the CUDA compiler", "the path of nvcc"),
    "EFFKERN_BUILD_EMULATION": _Variable(
        "at build time: CUDA kernels emulated on the CPU", "0, 1", _choice("0", "1")
    ),
    "EFFKERN_COMMIT": _Variable(
        "in benchmarks outside a git checkout: the commit", "a commit's hash"
    ),
    "EFFKERN_REQUIRE_BACKENDS": _Variable(
        "tests fail, not skip, without these backends",
        f"a comma-separated list of {_BACKEND_NAMES}",
        _unknown_backends,
    ),
    "EFFKERN_REQUIRE_EXAMPLES": _Variable(
        "tests fail, not skip, without the packages of effkern[examples]",
        "0, 1",
        _choice("0", "1"),
    ),
}


def build_info() -> dict[str, Any]:
    """What effkern was built with, and what it runs with.

    Returns:
        The facts that the build stored (versions of effkern, the compiler, torch and CUDA, CUDA
        architectures or the reason why there are none), if the extension is built, and

        - ``running_torch``: the version of the imported torch;
        - ``load_error``: why the native library is not loaded, or None;
        - ``cuda_kernels``: whether the loaded library holds CUDA kernels.
    """
    try:
        from . import _C

        built: dict[str, Any] = dict(_C.build_info())
    except ImportError:
        built = {}
    error = _library.load_error()
    return {
        **built,
        "running_torch": torch.__version__,
        "load_error": None if error is None else str(error),
        "cuda_kernels": _library.has_cuda_kernels(),
    }


def environment() -> tuple[list[dict[str, str | None]], list[str]]:
    """Every environment variable of effkern with its effect and value, and what is wrong."""
    rows: list[dict[str, str | None]] = []
    problems = []
    for name, variable in VARIABLES.items():
        value = os.environ.get(name)
        rows.append(
            {"name": name, "value": value, "effect": variable.effect, "values": variable.values}
        )
        for unknown in variable.unknown(value) if value else []:
            problems.append(f"{name}: wanted {variable.values}, got {unknown!r}")
    for name in sorted(os.environ):
        if name.startswith("EFFKERN_") and name not in VARIABLES:
            problems.append(f"{name} has no effect; known are {', '.join(VARIABLES)}")
    return rows, problems


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    # The metadata of torch does not say for which CUDA it is built.
    versions["torch"] = torch.__version__
    versions["cuda of torch"] = torch.version.cuda
    return versions


def _cpu() -> tuple[dict[str, Any], list[str]]:
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "torch threads": torch.get_num_threads(),
    }
    try:
        from . import _C
    except ImportError:
        return facts, []
    features = _C.cpu_features()
    facts["features"] = [name for name, present in features.items() if present]
    facts["features missing"] = [name for name, present in features.items() if not present]
    try:
        facts["instruction set"] = _C.cpu_isa()
    except RuntimeError as error:
        return facts, [f"the CPU kernels cannot run: {error}"]
    return facts, []


def _cuda_devices() -> tuple[list[dict[str, Any]], list[str]]:
    devices, problems = [], []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        capability = (facts.major, facts.minor)
        devices.append(
            {
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory": f"{facts.total_memory / 2**30:.1f} GiB",
                "multiprocessors": facts.multi_processor_count,
            }
        )
        if capability < _MIN_CAPABILITY:
            problems.append(
                f"{facts.name}: wanted compute capability 7.5 or newer, got {capability}; "
                "its tensors take torch"
            )
    if devices and torch.version.cuda and _library.available() and not _library.has_cuda_kernels():
        problems.append(
            "there is a CUDA device, but effkern was built without CUDA: install the CUDA "
            "toolkit (nvcc) and reinstall effkern with EFFKERN_BUILD_CUDA=1"
        )
    return devices, problems


def doctor() -> dict[str, Any]:
    """Everything ``python -m effkern doctor`` prints, as plain values.

    ``problems`` lists what is wrong with how to fix it; it is empty if all is well.
    """
    variables, problems = environment()
    cpu, cpu_problems = _cpu()
    devices, device_problems = _cuda_devices()
    build = build_info()
    if build["load_error"] is not None:
        problems.insert(0, f"every call takes torch: {build['load_error']}")
    return {
        "versions": _versions(),
        "build": build,
        "cpu": cpu,
        "cuda devices": devices,
        "backends": registry.backends(),
        "environment": variables,
        "problems": problems + cpu_problems + device_problems,
    }


def format_doctor(report: dict[str, Any]) -> str:
    """:func:`doctor` as text."""
    lines: list[str] = []

    def section(title: str, items: dict[str, Any]) -> None:
        width = max(map(len, items), default=0)
        lines.extend([title, *(f"  {key:<{width}}  {_word(v)}" for key, v in items.items()), ""])

    for title in ("versions", "build", "cpu"):
        section(title, report[title])
    for index, device in enumerate(report["cuda devices"]):
        section(f"cuda device {index}", device)
    available = {
        name: "available" if state is True else f"not available: {state}"
        for name, state in report["backends"].items()
    }
    section("backends", available)
    section(
        "environment variables",
        {
            row["name"]: f"{_word(row['value'] or None)}: {row['effect']} ({row['values']})"
            for row in report["environment"]
        },
    )
    if report["problems"]:
        lines += ["problems", *(f"  {problem}" for problem in report["problems"])]
    else:
        lines.append("no problems found")
    return "\n".join(lines)


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return {None: "-", True: "yes", False: "no", "": "-"}.get(value, str(value))
