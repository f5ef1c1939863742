"""Whether Triton can run here. Triton itself is imported by the first call of a kernel only."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import metadata

import torch

# The kernels have been run through all instruments with these.
_OLDEST = (3, 6)
_INSTALL = "install the one that belongs to this PyTorch, `pip install triton==3.6.0` for 2.11"


def interpreting() -> bool:
    """Whether this process runs Triton kernels in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def _version() -> str | None:
    for distribution in ("triton", "pytorch-triton"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    # Installed in another way: only the module itself knows.
    import triton

    return getattr(triton, "__version__", None)


def unavailable_reason(interpreted: bool) -> str | None:
    """None if Triton's kernels run here (with `interpreted`: in its interpreter), else why not."""
    if importlib.util.find_spec("triton") is None:
        return f"triton is not installed: {_INSTALL}"
    version = _version() or "unknown"
    parts = version.split(".")
    if not all(part.isdigit() for part in parts[:2]) or tuple(map(int, parts[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return f"wanted triton {oldest} or newer, got {version}: {_INSTALL}"
    if interpreted:
        return _interpreter_reason()
    if interpreting():
        return "TRITON_INTERPRET is set: unset it to compile Triton kernels"
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device: torch.cuda.is_available() is False"
    return None


def _interpreter_reason() -> str | None:
    if not interpreting():
        return "Triton's interpreter is off: set TRITON_INTERPRET=1 before the process starts"
    language = sys.modules.get("triton.language")
    # Its own functions are decorated when it is imported, for one of the two ways of running.
    if language is not None and type(language.sum).__name__ != "InterpretedFunction":
        return (
            "TRITON_INTERPRET was set after triton was imported: set it before the process starts"
        )
    return None
