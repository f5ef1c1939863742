"""pointwise's CUDA kernel on the emulator without torch, under sanitizers, and broken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
NAME = "pointwise"
KERNEL = r"pointwise_kernel<\w+, \d+, \w+, \w+>: "
RACE = KERNEL + r"race in shared memory: this thread (reads|writes) byte \d+ "
# What to replace in which file, and what is said of it.
BREAKS = {
    "stages_overwritten_before_they_are_read": (
        "kernel.cuh",
        "  __syncthreads();\n  if (!computes) return;",
        "  if (!computes) return;",
        RACE,
    ),
    "sums_read_before_they_are_stored": (
        "kernel.cuh",
        "    __syncwarp();\n    store_pixels",
        "    store_pixels",
        RACE,
    ),
    "sums_overwritten_before_they_are_read": (
        "kernel.cuh",
        "    if (first > 0) __syncwarp();\n",
        "",
        RACE,
    ),
    "a_group_too_few": (
        "tile.cuh",
        "cp_async_wait<kPointwiseStages - 2>",
        "cp_async_wait<kPointwiseStages - 1>",
        KERNEL + r"shared read: a cp\.async of thread .* has not landed here",
    ),
    "stage_overwritten": (
        "tile.cuh",
        "    __syncthreads();\n    copy();",
        "    copy();\n    __syncthreads();",
        RACE,
    ),
    "tail_of_pixels": (
        "kernel.cuh",
        "pixel + 4 * (i + j) < p.pixels",
        "pixel + 4 * (i + j) <= p.pixels",
        KERNEL + r"global (read|write) out of bounds",
    ),
    "gate_of_another_image": (
        "kernel.cuh",
        "at.pixel + first_pixel + 16 * i + lane % 16",
        "at.pixel + first_pixel + 16 * i",
        r"wrong result",
    ),
}
pytestmark = pytest.mark.slow_build


@pytest.mark.parametrize("kind", ("plain", "asan", "tsan"))
def test_edge_classes(build_runner, kind):
    for order in ("forward", "random:2"):
        passed, output = build_runner(kind, NAME)("--order", order)
        assert passed and "Sanitizer" not in output, output
        assert re.search(r"\d+ checks, 0 failures$", output.strip()), output


def test_no_bank_conflicts(build_runner):
    """Of shared memory, no access takes more passes through the banks than its bytes need."""
    passed, output = build_runner("plain", NAME)("--count")
    counted = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert passed and len(counted) >= 9
    for one in counted:
        loads, stores = one["shared_loads"], one["shared_stores"]
        if ", true, false>" not in one["kernel"]:
            assert loads["wavefronts"] == loads["min_wavefronts"], one
            assert stores["wavefronts"] == stores["min_wavefronts"], one
        # Rows of gates are fewer than the eight of a pass, and not all lanes copy some, which the
        # counters do not follow.
        assert loads["wavefronts"] == 4 * loads["requests"], one


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
