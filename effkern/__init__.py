"""effkern: fast depthwise convolutions for PyTorch, forward and backward, on CPU and CUDA."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from . import functional, nn
from .conversion import conversion_report, convert, revert
from .explanation import explain
from .folding import fold_batch_norm, folding_report
from .info import build_info
from .nn import DepthwiseConv2d
from .registry import backend, backends

try:
    __version__ = _version("effkern")
except PackageNotFoundError:
    # A checkout that was built in place but never installed.
    __version__ = str(build_info().get("version", "0+unknown"))

__all__ = [
    "DepthwiseConv2d",
    "__version__",
    "backend",
    "backends",
    "build_info",
    "conversion_report",
    "convert",
    "explain",
    "fold_batch_norm",
    "folding_report",
    "functional",
    "nn",
    "revert",
]
