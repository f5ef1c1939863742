"""What the launchers of the CUDA kernels make of a problem, for effkern.explain; needs no GPU."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ... import _library
from ...kernel_names import short_name

# The values of the enumerations in csrc/depthwise_conv2d/depthwise_conv2d.h.
_PASSES = ("forward", "grad_input", "grad_weight")
_DTYPES = ("float64", "float32", "float16", "bfloat16")
_LAYOUTS = ("contiguous", "channels_last", "strided")
_SIZES = (
    *("batch", "in_channels", "height", "width", "out_channels", "kernel_h", "kernel_w"),
    *("stride_h", "stride_w", "pad_top", "pad_bottom", "pad_left", "pad_right"),
    *("dilation_h", "dilation_w", "has_bias", "activation"),
)


class Launch(NamedTuple):
    """One launch: `code` is the kernel with its template arguments, None where the launcher does
    not tell it; blocks of the grid, threads of a block, bytes of dynamic shared memory."""

    code: str | None
    blocks: int
    threads: int
    shared_memory: int


@cache
def _planner(path: Path) -> Any:
    function = ctypes.CDLL(str(path)).effkern_planned_launches
    function.restype = ctypes.c_char_p
    return function


def launches(problem: Mapping[str, Any], emulated: bool = False) -> list[Launch] | None:
    """The launches of a call on dense tensors at addresses that allocators give, or None if the
    library has no CUDA kernels.

    Args:
        problem: as in :class:`effkern.explanation.Explanation`, with "pass_" and the activation's
            number.
        emulated: those of the emulated library.
    """
    there = _library.emulation_available() if emulated else _library.has_cuda_kernels()
    if not there:
        return None
    path = _library.emulation_path() if emulated else _library.path()
    numbers = [
        _PASSES.index(problem["pass_"]),
        _DTYPES.index(problem["dtype"]),
        _LAYOUTS.index(problem["layout"]),
        *(int(problem[name]) for name in _SIZES),
    ]
    found = _planner(path)((ctypes.c_int64 * len(numbers))(*numbers))
    if found is None:
        return None
    return [
        Launch(_code(one["kernel"]), one["blocks"], one["threads"], one["shared_memory"])
        for one in json.loads(found)
    ]


def _code(text: str) -> str | None:
    """Of what compilers call a function whose template argument is the kernel."""
    match = re.search(r"kKernel = &?(.*?)(?:\]|; |$)", text)
    return short_name(match[1]) if match else None


def _rank(launch: Launch) -> tuple[bool, int]:
    """The launch that does a call's work ranks highest; what adds up its sums tells no kernel."""
    copies = (launch.code or "").startswith("depthwise_conv2d_transpose_kernel")
    return bool(launch.code) and not copies, launch.blocks * launch.threads


def plan(problem: Mapping[str, Any], outputs: int, emulated: bool = False) -> dict[str, Any]:
    """Tile, grid, memory and code of a :class:`effkern.explanation.Plan`: of the launch with
    most threads that tells its kernel and is no copy.

    Args:
        problem, emulated: as for `launches`. outputs: pixels and channels of the result.
    """
    found = launches(problem, emulated)
    if not found:
        return dict.fromkeys(("code", "tile", "grid", "shared_memory", "scratch", "workspace"))
    main = max(found, key=_rank)
    return {
        "code": main.code,
        "tile": f"{-(-outputs // main.blocks)} outputs, {main.threads} threads",
        "grid": main.blocks,
        "shared_memory": main.shared_memory,
        "scratch": None,
        # Partial sums and copies, of which the launcher does not tell.
        "workspace": None if problem["pass_"] == "grad_weight" or len(found) > 1 else 0,
    }
