"""Backends: their names, which of them are here, and which one is asked for.

The choice is a plain module-level integer: read once per call, cheap, and something
``torch.compile`` can guard on. It goes into the operators as an argument, so a backward pass that
runs on another thread uses the backend its forward was called with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from . import _library, _triton

# The values are part of the operators' schemas; csrc/depthwise_conv2d/depthwise_conv2d.h has the
# same table.
BACKENDS: dict[str, int] = {
    "auto": 0,
    "cpu": 1,
    "cuda": 2,
    "triton": 3,
    "torch": 4,
    "cuda_emulated": 5,
    "triton_interpreted": 6,
}
_NAMES = {value: name for name, value in BACKENDS.items()}


def code(name: str) -> int:
    """The integer of a backend name; ValueError, listing the known names, for any other."""
    if not isinstance(name, str):
        raise TypeError(f"effkern.backend: name: wanted a str, got {type(name).__name__}")
    if name not in BACKENDS:
        raise ValueError(
            f"effkern.backend: name: wanted one of {', '.join(BACKENDS)}, got {name!r}"
        )
    return BACKENDS[name]


def _from_environment() -> int:
    name = os.environ.get("EFFKERN_BACKEND", "auto")
    if name not in BACKENDS:
        raise ValueError(f"EFFKERN_BACKEND: wanted one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


# Read as `registry.selected` on each call (Dynamo guards on it).
selected: int = _from_environment()


def current() -> str:
    """The name of the backend that calls use now."""
    return _NAMES[selected]


def set_default(name: str) -> None:
    """Sets the backend for the whole process, as EFFKERN_BACKEND does at import."""
    global selected
    selected = code(name)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Uses backend `name` inside the ``with`` block.

    The choice is process-wide, not per thread. A backend asked for by name that cannot run a call
    raises RuntimeError with the reason; ``"auto"`` takes torch wherever effkern has no kernel or
    torch's is faster.

    Args:
        name: "auto", "cpu", "cuda", "triton", "torch"; for tests "cuda_emulated" and
            "triton_interpreted".

    Raises:
        ValueError: `name` is not a backend.
    """
    global selected
    wanted = code(name)
    previous = selected
    selected = wanted
    try:
        yield
    finally:
        selected = previous


def unavailable_reason(name: str) -> str | None:
    """None if backend `name` can run on this machine, else why not."""
    code(name)
    if name in ("auto", "torch"):
        return None
    if name == "cuda_emulated":
        emulation_error = _library.emulation_error()
        return None if emulation_error is None else str(emulation_error)
    error = _library.load_error()
    if error is not None:
        return str(error)
    if name in ("triton", "triton_interpreted"):
        return _triton.unavailable_reason(interpreted=name == "triton_interpreted")
    if name == "cuda":
        import torch

        if not _library.has_cuda_kernels():
            return "effkern was built without CUDA: install nvcc and reinstall effkern"
        if torch.version.cuda is None:
            return f"this PyTorch ({torch.__version__}) is built without CUDA"
        if not torch.cuda.is_available():
            return "no CUDA device: torch.cuda.is_available() is False"
    return None


def backends() -> dict[str, bool | str]:
    """Maps every backend name to True if it can run here, or to the reason why not."""
    return {name: unavailable_reason(name) or True for name in BACKENDS}
