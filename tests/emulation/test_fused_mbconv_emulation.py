"""fused_mbconv's CUDA kernel on the emulator without torch, under sanitizers, and broken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
NAME = "fused_mbconv"
RACE = r"fused_mbconv_kernel<\w+, \d+>: race in shared memory: this thread (reads|writes) byte \d+ "
# What to replace in which file, and what is said of it.
BREAKS = {
    "tile_overwritten_before_it_is_read": (
        "kernel.cuh",
        "    __syncthreads();\n    store_pixels<true>(p, tiles, at, exchange, projected, 0);",
        "    store_pixels<true>(p, tiles, at, exchange, projected, 0);",
        RACE,
    ),
    "a_group_too_few": (
        "tile.cuh",
        "cp_async_wait<kFusedMBConvStages - 2>",
        "cp_async_wait<kFusedMBConvStages - 1>",
        r"fused_mbconv_kernel<\w+, \d+>: shared read: a cp\.async of thread .* has not landed here",
    ),
    "stage_overwritten": (
        "tile.cuh",
        "    __syncthreads();\n    copy();",
        "    copy();\n    __syncthreads();",
        RACE,
    ),
    "tile_edge": (
        "kernel.cuh",
        "out_x < p.out_width &&",
        "out_x <= p.out_width &&",
        r"fused_mbconv_kernel<\w+, \d+>: global (read|write) out of bounds|wrong result",
    ),
}
pytestmark = pytest.mark.slow_build


@pytest.mark.parametrize("kind", ("plain", "asan", "tsan"))
def test_edge_classes(build_runner, kind):
    for order in ("forward", "random:2"):
        passed, output = build_runner(kind, NAME)("--order", order)
        assert passed and "Sanitizer" not in output, output
        assert re.search(r"\d+ checks, 0 failures$", output.strip()), output


@pytest.mark.parametrize("name", BREAKS)
def test_broken_kernels_are_caught(build_runner, tmp_path, name):
    file, right, wrong, message = BREAKS[name]
    copied = tmp_path / "csrc"
    shutil.copytree(CSRC, copied)
    path = copied / NAME / f"{NAME}_{file}"
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    passed, output = build_runner("two_types", NAME, copied)("--order", "random:2")
    assert not passed and re.search(message, output), output[:3000]
