"""Timing, ceilings, correctness and memory: what the benchmarks measure with."""

from __future__ import annotations

import hashlib
import mmap
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from benchmarks import blocks, cells, correctness, memory, noise, overhead, timing
from benchmarks.binding_ceiling import binding_ceiling
from benchmarks.calls import effkern_call, torch_call
from benchmarks.ceilings import Ceilings, measure
from benchmarks.contenders import Contender, contenders
from benchmarks.options import Options
from benchmarks.problem import LAYOUTS, PASSES, Problem, random_tensors
from benchmarks.timing import Budget, Timed
from benchmarks.workloads import Layer

LAYER = Layer(3, 3, 1, 1, 1, 1, 8, 12, 12, 1, 1, 1, 1, bias=True)
BUDGET = Budget(rounds=3, block=0.002, cap=1.0, total=10.0)
CEILINGS = Ceilings(1e11, [(1 << 17, 2e11), (1 << 20, 1e11)], {"flops": "", "copies": ""})


@pytest.fixture
def options(monkeypatch):
    monkeypatch.setattr(Options, "budget", BUDGET)
    return Options(device="cpu", peers=["torch"])


def test_interleaved_times_every_contender_and_tells_them_apart():
    timed = {
        "slow": Timed([lambda: time.sleep(0.002)], nullcontext),
        "fast": Timed([lambda: time.sleep(0.0002)], nullcontext),
    }
    timing.interleaved(timed, BUDGET, seconds=10)
    slow, fast = timed["slow"].summary(), timed["fast"].summary()
    assert slow["rounds"] == fast["rounds"] == BUDGET.rounds
    assert slow["min_us"] >= 2000 and fast["min_us"] >= 200
    assert slow["median_us"] > 2 * fast["median_us"]
    assert fast["min_us"] <= fast["p20_us"] <= fast["median_us"]


def test_a_contender_that_reaches_its_cap_is_marked():
    timed = {"slow": Timed([lambda: time.sleep(0.03)], nullcontext)}
    timing.interleaved(timed, Budget(rounds=9, block=0.01, cap=0.05, total=10), seconds=10)
    summary = timed["slow"].summary()
    assert summary["capped"] == "cell" and 1 <= summary["rounds"] < 9


def test_a_run_that_is_late_still_measures_three_rounds():
    timed = {"any": Timed([lambda: None], nullcontext)}
    timing.interleaved(timed, Budget(rounds=9, block=0.001, cap=5, total=10), seconds=0)
    assert timed["any"].summary()["capped"] == "run"
    assert timed["any"].summary()["rounds"] == 3


def test_timing_rotates_over_all_copies():
    seen = []
    calls = [lambda i=i: seen.append(i) for i in range(4)]
    timing.interleaved({"any": Timed(calls, nullcontext)}, BUDGET, seconds=10)
    assert set(seen) == {0, 1, 2, 3}


def test_time_in_the_run_queue_never_falls():
    before = noise.run_queue_seconds()
    assert 0 <= before <= noise.run_queue_seconds()


def test_a_spinning_thread_is_seen_and_waited_for():
    end = time.perf_counter() + 0.05
    # hashlib computes without the interpreter's lock, as a pool of threads spins.
    data = bytes(1 << 22)

    def spin():
        while time.perf_counter() < end:
            hashlib.sha256(data).digest()

    thread = threading.Thread(target=spin)
    thread.start()
    seen = noise.running_threads()
    blocks.rest()
    assert time.perf_counter() >= end if seen else not sys.platform.startswith("linux")
    thread.join()
    assert noise.running_threads() == 0


def test_fresh_pages_are_counted_in_a_block():
    fresh = Timed([lambda: mmap.mmap(-1, 1 << 20).write(bytes(1 << 20))], nullcontext)
    kept = Timed([lambda: None], nullcontext)
    timing.interleaved({"fresh": fresh, "kept": kept}, BUDGET, seconds=10)
    assert fresh.summary()["page_faults"] >= (1 << 20) / mmap.PAGESIZE
    assert kept.summary()["page_faults"] < 1


def test_a_call_that_fails_while_it_is_timed_ends_its_rounds():
    def fails():
        raise RuntimeError("lost")

    timed = {"fails": Timed([fails], nullcontext), "any": Timed([lambda: None], nullcontext)}
    timing.interleaved(timed, BUDGET, seconds=10)
    assert timed["fails"].failure == "RuntimeError: lost"
    assert timed["any"].summary()["rounds"] == BUDGET.rounds


def test_bandwidth_is_interpolated_between_working_sets():
    assert CEILINGS.bandwidth(1) == 2e11
    assert CEILINGS.bandwidth(1 << 30) == 1e11
    assert 1e11 < CEILINGS.bandwidth(1 << 19) < 2e11
    assert Ceilings.from_json(CEILINGS.to_json()) == CEILINGS


def test_the_measured_ceilings_never_rise_with_the_working_set():
    found = measure("cpu", seconds=0.002)
    rates = [rate for _, rate in found.copies]
    assert rates == sorted(rates, reverse=True) and rates[-1] > 1e8
    assert found.flops_per_second > 1e8


def test_the_roofline_takes_the_binding_ceiling():
    wide = Problem(Layer(31, 31, 1, 1, 1, 1, 8, 64, 64, 15, 15, 15, 15), "fwd")
    assert cells.roofline(wide, CEILINGS)["bound"] == "compute"
    assert cells.roofline(wide, CEILINGS)["floor_us"] == pytest.approx(wide.flops / 1e11 * 1e6)
    pointwise = Problem(Layer(1, 1, 1, 1, 1, 1, 8, 64, 64, 0, 0, 0, 0), "fwd")
    assert cells.roofline(pointwise, CEILINGS)["bound"] == "bandwidth"


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_contenders_compute_the_same(pass_, layout):
    problem = Problem(LAYER, pass_)
    tensors = random_tensors(problem)
    expected = correctness.reference(problem, tensors)
    for build in (torch_call, effkern_call):
        call = build(problem, tensors.to(layout))
        assert correctness.failure(problem, expected, layout, call) is None


@pytest.mark.parametrize("pass_", PASSES)
def test_a_wrong_contender_is_refused_and_gets_no_times(pass_, options):
    def wrong(problem, tensors):
        tensors.weight[0, 0, 0, 0] += 1e-3
        tensors.input[0, 0, 0, 0] += 1e-3
        tensors.grad_output[0, 0, 0, 0] += 1e-3
        return torch_call(problem, tensors)

    def broken(problem, tensors):
        raise RuntimeError("does not run")

    problem = Problem(LAYER, pass_)
    chosen = contenders("cpu", ["contiguous"], ["torch"])
    chosen += [Contender("wrong", "contiguous", wrong), Contender("broken", "contiguous", broken)]
    rows = {r["contender"]: r for r in cells.measure(problem, chosen, options, CEILINGS, 10)}
    assert "rounding units" in rows["wrong"]["failure"]
    assert rows["broken"]["failure"] == "RuntimeError: does not run"
    assert "median_us" not in rows["wrong"] and "median_us" not in rows["broken"]
    assert rows["effkern"]["failure"] is None and rows["effkern"]["median_us"] > 0


def test_peak_memory_sees_the_output_and_the_gradients():
    layer = Layer(3, 3, 1, 1, 1, 1, 64, 64, 64, 1, 1, 1, 1)
    contender = Contender("torch_channels_last", "channels_last", torch_call)
    row = memory.measure(contender, layer, "float32", 1, "cpu")
    image = 64 * 64 * 64 * 4
    # The output and the gradient of the input, at least.
    assert 2 * image <= row["allocated_peak_bytes"] < 8 * image
    assert row["resident_peak_bytes"] is None or row["resident_peak_bytes"] > image


def test_overhead_covers_every_contender_mode_and_layout():
    rows = overhead.measure("cpu", rounds=1, calls=2)
    assert len(rows) == 4 * len(overhead.MODES) * len(LAYOUTS)
    assert all(0 < row["min_us"] <= row["median_us"] for row in rows)


@pytest.mark.parametrize(("flops", "bound"), ((10**9, "compute"), (1, "bandwidth")))
def test_the_floor_is_from_the_median_of_the_rounds(monkeypatch, flops, bound):
    native = pytest.importorskip("effkern._C")
    rates = iter((1e9, 4e9, 2e9))

    class Rate:
        def __init__(self, *arguments, streaming=True):
            # The better of plain and streaming stores counts.
            self.per_second = next(rates) if streaming else 1.0

    monkeypatch.setattr(native, "measure_fma_peak", Rate)
    monkeypatch.setattr(native, "measure_copy_bandwidth", Rate)
    ceiling = binding_ceiling(flops, 4096, CEILINGS)
    for _ in range(3):
        ceiling.measure()
    amount = flops if bound == "compute" else 4096
    assert ceiling.floor() == {"floor_us": pytest.approx(amount / 2e9 * 1e6), "bound": bound}


def test_a_floor_of_the_rounds_is_kept_and_one_of_the_run_is_not():
    row = {"flops": 10**9, "bytes": 4096, "failure": None, "median_us": 50.0, "floor_us": 25.0}
    kept, replaced = row | {"floor_from": "rounds"}, row | {"floor_from": "run"}
    for each in (kept, replaced):
        cells.add_rates(each, CEILINGS)
    assert kept["over_roofline"] == 2
    assert replaced["floor_us"] == pytest.approx(10**9 / 1e11 * 1e6)
