"""The emulator finds planted faults, and nothing in correct kernels; csrc/emulation/runners."""

from __future__ import annotations

import json
import re

import pytest

KINDS = ("plain", "asan", "tsan")
ORDERS = ("forward", "reverse", "random:1", "random:2")
CORRECT = (
    "reverse",
    "cp_async",
    "syncwarp",
    "shuffle",
    "named_barrier",
    "cluster",
    "atomics",
    "view",
)

# What every build and order says; {place} is block, thread and line.
PLACE = r"\[block \(\d,0,0\) thread \(\d+,0,0\), faults\.cpp:\d+\]"
FAULTS = {
    "divergent_barrier": (
        r"barrier divergence: 64 threads have exited, 64 wait for ever in __syncthreads at "
        r"faults\.cpp:\d+ \(first: block \(\d,0,0\) thread \(\d+,0,0\)\)"
    ),
    "barrier_on_two_lines": (
        rf"__syncthreads: barrier divergence: \d+ other threads wait at faults\.cpp:\d+ {PLACE}"
    ),
    "early_return": (
        r"barrier divergence: 1 threads have exited, 127 wait for ever in __syncthreads at "
        r"faults\.cpp:\d+"
    ),
    "static_overrun": (
        rf"shared write out of bounds: 4 bytes at byte 512 of staged, which has 512 {PLACE}"
    ),
    "dynamic_overrun": (
        "shared write out of bounds: 4 bytes at byte 512 of dynamic shared memory, which has 512 "
        + PLACE
    ),
    "global_overrun": (
        r"global read out of bounds: 4 bytes at byte 1536 of the nearest buffer, input, which has "
        r"1536 \[block \(2,0,0\) thread \(127,0,0\), faults\.cpp:\d+\]"
    ),
    "misaligned_global": (
        rf"misaligned global read: wanted an address that is a multiple of 16, got 0x\w+ {PLACE}"
    ),
    "misaligned_shared": (
        rf"misaligned shared read: wanted an address that is a multiple of 16, got 0x\w+ {PLACE}"
    ),
    "write_to_input": rf"global write to input, which kernels may only read {PLACE}",
    "missing_wait": (
        r"shared read: a cp\.async of thread \(\d+,0,0\) has not landed here: no wait between "
        + PLACE
    ),
    "shuffle_without_a_lane": (
        r"warp divergence: lane \d+ is at (__shfl_xor_sync|__syncwarp), faults\.cpp:\d+ .* lane "
        rf"\d+ at (__shfl_xor_sync|__syncwarp), .* {PLACE}"
    ),
    "named_barrier_too_few": (
        r"barrier divergence: 0 threads have exited, .*32 wait for ever in bar\.sync at faults\.cpp"
    ),
    "view_out_of_bounds": (
        rf"global read out of bounds: byte \d+ of input lies between the elements of the view "
        rf"{PLACE}"
    ),
    "too_many_threads": (
        r"error 9: .*threads per block: wanted 1 to 1024, at most 64 of them in z, got \(1056,1,1\)"
    ),
    "empty_grid": r"error 9: .*grid: wanted 1 to \(2147483647,65535,65535\) blocks, got \(0,1,1\)",
    "too_much_dynamic_shared": (
        r"error 1: .*dynamic shared memory: wanted at most 49152 bytes, got 49168"
    ),
    "too_much_static_shared": (
        r"shared memory: wanted at most 49152 bytes in arrays and 232448 in all, got 52000 and "
        rf"52512 {PLACE}"
    ),
    "cluster_does_not_divide": (
        r"error 9: .*cluster: wanted 1 to 8 blocks that divide the grid \(3,1,1\), got \(2,1,1\)"
    ),
}
# Found by the emulator's own check in every order, and by ThreadSanitizer without it.
RACES = ("missing_barrier", "missing_syncwarp", "cluster_without_barrier")


@pytest.fixture(scope="session", params=KINDS)
def faults(request, build_runner):
    return build_runner(request.param, "faults")


@pytest.fixture(scope="session")
def plain_faults(build_runner):
    return build_runner("plain", "faults")


def test_every_case_is_tested(plain_faults):
    names = plain_faults()[1].split()
    assert set(names) == {*CORRECT, *FAULTS, *RACES, "raw_overrun"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CORRECT)
def test_correct_kernels_pass(faults, name, order):
    assert faults(name, order) == (True, "")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", list(FAULTS))
def test_faults_are_found(faults, name, order):
    passed, output = faults(name, order)
    assert not passed
    assert re.search(FAULTS[name], output), output
    assert "faults::" in output, "the kernel's name is missing"
    assert "Sanitizer" not in output


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", RACES)
def test_races_are_found(plain_faults, name, order):
    passed, output = plain_faults(name, order)
    assert not passed
    assert re.search(
        r"race in shared memory: this thread (reads|writes) byte \d+ of staged, thread "
        r"\(\d+,0,0\) (wrote|read) it at faults\.cpp:\d+, no barrier between",
        output,
    ), output
    assert re.search(PLACE, output), output


@pytest.mark.parametrize("name", RACES)
def test_thread_sanitizer_finds_races(build_runner, name):
    passed, output = build_runner("tsan", "faults")(name, EFFKERN_EMULATION_NO_RACE_CHECK="1")
    assert not passed
    assert "WARNING: ThreadSanitizer: data race" in output
    assert "CUDA thread" in output and "faults.cpp" in output, output


@pytest.mark.parametrize("kind", ("plain", "asan"))
@pytest.mark.parametrize("name", RACES)
def test_poison_shows_races_in_results(build_runner, kind, name):
    runner = build_runner(kind, "faults")
    passed, output = runner(name, EFFKERN_EMULATION_NO_RACE_CHECK="1")
    assert not passed
    assert re.search(r"wrong result: output\[\d+\] is -?nan", output), output


def test_access_past_the_wrappers_is_found(plain_faults, build_runner):
    passed, output = plain_faults("raw_overrun")
    assert not passed
    assert re.search(
        r"faults::raw_overrun: invalid memory access to 0x\w+, instruction faults\+0x\w+; the "
        r"thread was last at a global write, faults\.cpp:\d+ \[block \(0,0,0\) thread \(5,0,0\)",
        output,
    ), output
    passed, output = build_runner("asan", "faults")("raw_overrun")
    assert not passed
    assert re.search(r"AddressSanitizer: .*faults\.cpp:\d+ in effkern::faults::raw_overrun", output)


@pytest.mark.parametrize("kind", KINDS)
def test_ptx_wrappers_conform(build_runner, kind):
    passed, output = build_runner(kind, "ptx_conformance")()
    lines = output.splitlines()
    assert passed and lines[-1] == "0 failures", output
    assert len(lines) > 20 and all(line.startswith("ok ") for line in lines[:-1])


def test_an_unknown_order(plain_faults):
    passed, output = plain_faults("reverse", "sideways")
    assert not passed and "wanted forward, reverse, random or random:<seed>" in output


def test_counters(build_runner):
    """Counted by hand: 1 x 1 x 4 x 32 float32, 3x3, padding 1, contiguous, one block."""
    passed, output = build_runner("plain", "depthwise_conv2d")("--cases", "counted", "--count")
    assert passed, output
    problem = next(json.loads(line) for line in output.splitlines() if '"forward"' in line)
    (kernel,) = problem["kernels"]
    assert kernel["kernel"].startswith("depthwise_conv2d_contiguous_kernel<float, 3, 1, ")
    assert (kernel["launches"], kernel["blocks"], kernel["threads_per_block"]) == (1, 1, 32)
    # 512 bytes of image, 36 bytes of weights, which each thread loads.
    assert kernel["global_loads"]["unique_sectors"] == 16 + 2
    assert kernel["global_loads"]["bytes"] == 512 + 32 * 36
    assert kernel["global_stores"] == {
        # A warp stores 32 times 16 bytes.
        **{"requests": 1, "sectors": 16, "unique_sectors": 16, "bytes": 512}
    }
    shared = kernel["shared_loads"]
    assert 0 < shared["min_wavefronts"] <= shared["wavefronts"]
