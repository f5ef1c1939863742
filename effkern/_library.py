"""Loads libeffkern_ops.so, once, and keeps the reason if that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_LIBRARY = Path(__file__).with_name("libeffkern_ops.so")
_PROBE_OP = "effkern::depthwise_conv2d"


def _load() -> Exception | None:
    if torch._C._dispatch_has_kernel(_PROBE_OP):
        # A second copy of the library would crash the process in its static initialisers, and
        # importlib.reload runs this again with the first copy still loaded.
        loaded = getattr(sys, "_effkern_library", None)
        if loaded == str(_LIBRARY):
            return None
        return ImportError(
            f"another copy of the effkern library is already loaded in this process ({loaded}); "
            f"{_LIBRARY} was not loaded"
        )
    if not sys.platform.startswith("linux"):
        return ImportError(f"effkern has no kernels for {sys.platform}: Linux only")
    if not _LIBRARY.exists():
        return ImportError(
            f"{_LIBRARY} does not exist: effkern is not built here; run "
            "`pip install .` (or `pip install -e .` in a checkout)"
        )
    try:
        torch.ops.load_library(str(_LIBRARY))
    except OSError as error:
        return ImportError(
            f"cannot load {_LIBRARY} with torch {torch.__version__}: {error.__cause__ or error}; "
            "reinstall effkern against this torch (2.11 or newer)"
        )
    sys._effkern_library = str(_LIBRARY)  # type: ignore[attr-defined]
    return None


_error = _load()


def load_error() -> Exception | None:
    """Why the native library is not loaded, or None if it is."""
    return _error


def available() -> bool:
    """Whether the native operators are registered."""
    return _error is None


def has_cuda_kernels() -> bool:
    """Whether the loaded library holds CUDA kernels (whatever the devices of this machine)."""
    return available() and torch._C._dispatch_has_kernel_for_dispatch_key(_PROBE_OP, "CUDA")
