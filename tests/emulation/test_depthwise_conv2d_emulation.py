"""depthwise_conv2d's CUDA kernels on the emulator without torch, and broken ones."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
NAME = "depthwise_conv2d"


def checks(output):
    match = re.search(r"(\d+) checks, 0 failures$", output.strip())
    assert match, output
    return int(match[1])


@pytest.mark.slow_build
def test_all_edge_classes(build_runner):
    passed, output = build_runner("plain", NAME)("--cases", "all")
    assert passed, output
    # A tenth of them are of hooks.
    assert checks(output) > 9000


# Every third case, and so on: numbers that dtypes, layouts and strides do not divide.
@pytest.mark.parametrize("order, every", (("forward", 3), ("reverse", 7), ("random:3", 11)))
def test_edge_classes(build_runner, order, every):
    passed, output = build_runner("plain", NAME)(
        "--cases", "all", "--order", order, "--every", str(every)
    )
    assert passed, output
    assert checks(output) > 9000 // every


@pytest.mark.parametrize("kind", ("asan", "tsan"))
def test_every_kernel_under_a_sanitizer(build_runner, kind):
    passed, output = build_runner(kind, NAME)("--cases", "smoke", "--order", "random:4")
    assert passed, output
    assert "Sanitizer" not in output
    assert checks(output) > 300


class Break(NamedTuple):
    """A mistake in a kernel: what to replace in which file, and what is said of it."""

    file: str
    right: str
    wrong: str
    message: str


BREAKS = {
    "missing_barrier": Break(
        "direct_planes_kernel.cuh",
        "sum = initial;\n    __syncthreads();",
        "sum = initial;",
        r"depthwise_conv2d_contiguous_kernel<\w+, \d, \d, .*: race in shared memory: this thread "
        r"(reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) it at "
        r"depthwise_conv2d_\w+\.cuh:\d+, no barrier between \[block \(\d+,0,0\) thread "
        r"\(\d+,0,0\), depthwise_conv2d_\w+\.cuh:\d+\]",
    ),
    "tail_predicate": Break(
        "direct_kernel.cuh",
        "store_if<kChannels>(first_column + i < p.out_width",
        "store_if<kChannels>(first_column + i <= p.out_width",
        r"depthwise_conv2d_channels_last_kernel<\w+, \d, \d, .*: global write out of bounds: .* "
        r"\[block \(\d+,0,0\) thread \(\d+,0,0\), depthwise_conv2d_direct_kernel\.cuh:\d+\]",
    ),
    "sums_before_their_barrier": Break(
        "hooks.cuh",
        "    __syncthreads();\n    const int count",
        "    const int count",
        r"depthwise_conv2d_channels_last_kernel<\w+, \d, \d, .*: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of weights, thread \(\d+,0,0\) (wrote|read) it at "
        r"depthwise_conv2d_hooks\.cuh:\d+, no barrier between \[block",
    ),
    "prologue_before_the_planes_are_copied": Break(
        "direct_planes_kernel.cuh",
        "        __syncthreads();\n        transform_planes",
        "        transform_planes",
        r"depthwise_conv2d_contiguous_kernel<\w+, \d, \d, .*: race in shared memory: this thread "
        r"(reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) it at "
        r"depthwise_conv2d_\w+\.cuh:\d+, no barrier between \[block",
    ),
    "missing_wait": Break(
        "toeplitz_kernel.cuh",
        "    ptx::cp_async_wait_all();\n",
        "",
        r"depthwise_conv2d_toeplitz_kernel<\w+, \d, .*: shared read: a cp\.async of thread "
        r"\(\d+,0,0\) has not landed here: no wait between \[block \(\d+,0,0\) thread "
        r"\(\d+,0,0\), depthwise_conv2d_toeplitz_\w+\.cuh:\d+\]",
    ),
    "missing_barrier_before_the_transposed_store": Break(
        "toeplitz_channels_last_kernel.cuh",
        "  __syncthreads();\n  if constexpr (is_hooked<Epilogue>) {\n    if (epilogue.moments",
        "  if constexpr (is_hooked<Epilogue>) {\n    if (epilogue.moments",
        r"depthwise_conv2d_toeplitz_channels_last_kernel<\w+, \d, .*: race in shared memory: this "
        r"thread reads byte \d+ of dynamic shared memory, thread \(\d+,0,0\) wrote it at "
        r"depthwise_conv2d_toeplitz_block\.cuh:\d+, no barrier between \[block",
    ),
    "products_before_the_prologue": Break(
        "toeplitz_channels_last_kernel.cuh",
        "lane);\n        __syncwarp();\n",
        "lane);\n",
        r"depthwise_conv2d_toeplitz_channels_last_kernel<\w+, \d, Hooked.*: race in shared memory: "
        r"this thread reads byte \d+ of dynamic shared memory, thread \(\d+,0,0\) wrote it at "
        r"depthwise_conv2d_toeplitz_hooks\.cuh:\d+, no barrier between \[block",
    ),
    "outputs_over_unread_input": Break(
        "toeplitz_block.cuh",
        "    // All lanes have read the input.\n    __syncwarp();\n",
        "",
        r"depthwise_conv2d_toeplitz_(planes|channels_last)_kernel<\w+, \d, .*: race in shared "
        r"memory: this thread (reads|writes) byte \d+ of dynamic shared memory, thread "
        r"\(\d+,0,0\) (wrote|read) it at depthwise_conv2d_toeplitz_block\.cuh:\d+, no barrier",
    ),
    "planes_staged_before_they_are_zero": Break(
        "toeplitz_planes_kernel.cuh",
        "  __syncthreads();\n  switch (tiles.input.width) {",
        "  switch (tiles.input.width) {",
        r"depthwise_conv2d_toeplitz_planes_kernel<\w+, \d, .*: race in shared memory: this thread "
        r"(reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) it at "
        r"depthwise_conv2d_toeplitz_\w+\.cuh:\d+, no barrier between \[block",
    ),
    "planes_read_before_they_are_copied": Break(
        "wgrad_planes_kernel.cuh",
        "      __syncthreads();\n\n      // Warps of an image",
        "      // Warps of an image",
        r"depthwise_conv2d_contiguous_wgrad_kernel<\w+, \d, \d, .*: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) "
        r"it at depthwise_conv2d_\w+\.cuh:\d+, no barrier between \[block",
    ),
    "results_before_the_last_have_been_copied": Break(
        "grad_input_planes_kernel.cuh",
        "    // Also: the last results have been copied.\n    __syncthreads();\n",
        "",
        r"depthwise_conv2d_contiguous_grad_input_kernel<\w+, \d, \w+>: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) "
        r"it at depthwise_conv2d_\w+\.cuh:\d+, no barrier between \[block",
    ),
    "rows_multiplied_before_they_are_copied": Break(
        "wgrad_mma_kernel.cuh",
        "    ptx::cp_async_wait_all();\n    __syncthreads();\n",
        "    ptx::cp_async_wait_all();\n",
        r"depthwise_conv2d_contiguous_wgrad_mma_kernel<\w+, \d, \d>: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) "
        r"it at depthwise_conv2d_wgrad_mma_kernel\.cuh:\d+, no barrier between \[block",
    ),
    "rows_of_cells_overwritten_before_they_are_read": Break(
        "wgrad_mma_channels_last_kernel.cuh",
        "        ptx::cp_async_wait<kCellStages - 2>();\n        __syncthreads();\n",
        "        ptx::cp_async_wait<kCellStages - 2>();\n",
        r"depthwise_conv2d_channels_last_wgrad_mma_kernel<\w+, \d>: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of dynamic shared memory, thread \(\d+,0,0\) (wrote|read) "
        r"it at depthwise_conv2d_wgrad_mma_channels_last_kernel\.cuh:\d+, no barrier between "
        r"\[block",
    ),
    "race_in_reduction_of_all_gradients": Break(
        "gradients_kernel.cuh",
        "    __syncthreads();\n    if (slot != 0",
        "    if (slot != 0",
        r"depthwise_conv2d_channels_last_gradients_kernel<\w+, \d>: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of exchange, thread \(\d+,0,0\) (wrote|read) it at "
        r"depthwise_conv2d_gradients_kernel\.cuh:\d+, no barrier between \[block",
    ),
    "race_in_reduction": Break(
        "wgrad_kernel.cuh",
        "    __syncthreads();\n    if (slot != 0",
        "    if (slot != 0",
        r"depthwise_conv2d_channels_last_wgrad_kernel<\w+, \d, \d>: race in shared memory: this "
        r"thread (reads|writes) byte \d+ of exchange, thread \(\d+,0,0\) (wrote|read) it at "
        r"depthwise_conv2d_wgrad_kernel\.cuh:\d+, no barrier between \[block \(\d+,0,0\) thread",
    ),
}


# One of each kind; the others take as long, and are for whoever changes their kernels.
ALWAYS = ("missing_barrier", "tail_predicate", "missing_wait")


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken") / "csrc"
    shutil.copytree(CSRC, folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow_build) for name in BREAKS],
)
def test_broken_kernels_are_caught(build_runner, copied_sources, name):
    broken = BREAKS[name]
    path = copied_sources / NAME / f"{NAME}_{broken.file}"
    text = path.read_text()
    assert text.count(broken.right) == 1
    path.write_text(text.replace(broken.right, broken.wrong))
    try:
        passed, output = build_runner("two_types", NAME, copied_sources)("--cases", "smoke")
    finally:
        path.write_text(text)
    assert not passed
    assert re.search(broken.message, output), output[:3000]
