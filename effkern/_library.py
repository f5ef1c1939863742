"""Loads libeffkern_ops.so, once, and keeps the reason if that fails.

Builds with EFFKERN_BUILD_EMULATION=1 have libeffkern_emulated.so as well, for tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_LIBRARY = Path(__file__).with_name("libeffkern_ops.so")
_EMULATION = Path(__file__).with_name("libeffkern_emulated.so")
_PROBE_OP = "effkern::depthwise_conv2d"
_EMULATION_PROBE_OP = "effkern_emulated::depthwise_conv2d"


def _load(library: Path, probe_op: str, how_to_build: str) -> Exception | None:
    loaded = sys.__dict__.setdefault("_effkern_libraries", {})
    if torch._C._dispatch_has_kernel(probe_op):
        # A second copy of the library would crash the process in its static initialisers, and
        # importlib.reload runs this again with the first copy still loaded.
        path = loaded.get(probe_op)
        if path == str(library):
            return None
        return ImportError(
            f"another copy of the effkern library is already loaded in this process ({path}); "
            f"{library} was not loaded"
        )
    if not sys.platform.startswith("linux"):
        return ImportError(f"effkern has no kernels for {sys.platform}: Linux only")
    if not library.exists():
        return ImportError(f"{library} does not exist: {how_to_build}")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return ImportError(
            f"cannot load {library} with torch {torch.__version__}: {error.__cause__ or error}; "
            "reinstall effkern against this torch (2.11 or newer)"
        )
    loaded[probe_op] = str(library)
    return None


_error = _load(
    _LIBRARY,
    _PROBE_OP,
    "effkern is not built here; run `pip install .` (or `pip install -e .` in a checkout)",
)
_emulation_error = _error or _load(
    _EMULATION,
    _EMULATION_PROBE_OP,
    "the CUDA emulator is for tests; build it in a checkout with "
    "`EFFKERN_BUILD_EMULATION=1 python setup.py build_ext --inplace`",
)


def load_error() -> Exception | None:
    """Why the native library is not loaded, or None if it is."""
    return _error


def path() -> Path:
    """Where the native library is, or would be."""
    return _LIBRARY


def available() -> bool:
    """Whether the native operators are registered."""
    return _error is None


def has_cuda_kernels() -> bool:
    """Whether the loaded library holds CUDA kernels (whatever the devices of this machine)."""
    return available() and torch._C._dispatch_has_kernel_for_dispatch_key(_PROBE_OP, "CUDA")


def emulation_error() -> Exception | None:
    """Why the CUDA kernels emulated on the CPU are not loaded, or None if they are."""
    return _emulation_error


def emulation_path() -> Path:
    """Where the emulated library is, or would be."""
    return _EMULATION


def emulation_available() -> bool:
    """Whether the emulated operators (torch.ops.effkern_emulated) are registered."""
    return _emulation_error is None
