"""Timing and ceilings on CUDA, with a device that is played by the CPU."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from benchmarks import ceilings_cuda, cells, contenders, machine, timing_cuda
from benchmarks.budget import Budget
from benchmarks.ceilings import MIB, Ceilings
from benchmarks.contenders import Contender
from benchmarks.options import Options
from benchmarks.problem import Problem
from benchmarks.timing import Timed
from benchmarks.workloads import Layer

BUDGET = Budget(rounds=4, block=0.002, cap=1.0, total=10.0)
L2 = 48 * MIB


class Stream:
    def wait_stream(self, other):
        pass


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.time - self.time) * 1e3


class Graph:
    """What is called during the capture is called again by each replay."""

    capturing: Graph | None = None

    def __init__(self):
        self.calls = []

    def replay(self):
        for call in self.calls:
            call()


@contextmanager
def capture(graph):
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None


def recorded(call):
    """`call` as an operator that a capture records instead of running it."""

    def run():
        if Graph.capturing is not None:
            Graph.capturing.calls.append(call)
            return torch.empty(1)
        return call()

    return run


@pytest.fixture(autouse=True)
def device(monkeypatch):
    properties = SimpleNamespace(L2_cache_size=L2, multi_processor_count=4)
    for name, value in {
        "Stream": Stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda: None,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capture,
        "current_device": lambda: 0,
        "get_device_properties": lambda device: properties,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def test_operands_rotate_past_the_cache():
    assert timing_cuda.copies(L2) == 3
    assert timing_cuda.copies(100 * L2) == 2
    assert timing_cuda.copies(MIB) == 144
    assert timing_cuda.copies(0) == timing_cuda.copies(1) == 1000


def test_cold_calls_take_turns_and_warm_calls_use_one_set_of_operands():
    met: list[int] = []
    calls = [recorded(lambda i=i: met.append(i) or time.sleep(1e-4)) for i in range(3)]
    timed = Timed(calls, nullcontext)
    facts = timing_cuda.interleaved({"any": timed}, BUDGET, 10)
    summary = timed.summary()
    assert facts["any"]["graph"] is True and summary["rounds"] == BUDGET.rounds
    assert summary["min_us"] >= 100 and facts["any"]["warm_us"] >= 100
    # Three calls before the capture; then every replay goes through all.
    assert met[:9] == [0, 1, 2] * 3
    first_warm = len(met) - met[::-1].index(2)
    assert first_warm < len(met) and set(met[first_warm:]) == {0}


def test_results_rotate_too():
    alive = []

    def call():
        result = torch.empty(1000)
        alive.append(result.data_ptr())
        return result

    timing_cuda._all([call] * 4)[0]()
    assert len(set(alive)) > 3


def test_a_contender_that_cannot_be_captured_is_timed_as_a_queue():
    def call():
        if Graph.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        time.sleep(1e-4)

    timed = Timed([call], nullcontext)
    facts = timing_cuda.interleaved({"any": timed}, BUDGET, 10)
    assert facts["any"]["graph"] is False and timed.summary()["min_us"] >= 100


@pytest.mark.parametrize("after", [0, 300])
def test_a_failure_ends_its_contender_and_no_other(after):
    count = 0

    def fails():
        nonlocal count
        count += 1
        if count > after:
            raise RuntimeError("out of memory")

    timed = {
        "bad": Timed([recorded(fails)], nullcontext),
        "good": Timed([recorded(lambda: time.sleep(1e-4))], nullcontext),
    }
    facts = timing_cuda.interleaved(timed, BUDGET, 10)
    assert timed["bad"].failure == "RuntimeError: out of memory"
    assert facts.keys() == {"good"} and timed["good"].summary()["rounds"] == BUDGET.rounds


def test_who_is_compared_on_a_gpu(monkeypatch):
    monkeypatch.setattr(contenders.effkern, "backends", lambda: {"triton": True})
    found = contenders.contenders("cuda", ["channels_last"], ["torch"])
    backends = {contender.name: contender.backend for contender in found}
    assert backends["effkern_triton_channels_last"] == "triton"
    assert list(backends)[:2] == ["torch", "torch_channels_last"]
    assert all(name in contenders.LABELS for name in backends)
    monkeypatch.setattr(contenders.effkern, "backends", lambda: {"triton": "no CUDA device"})
    assert len(contenders.contenders("cuda", ["channels_last"], ["torch"])) == 3


def test_ceilings(monkeypatch):
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, device, **kind: randn(*size, **kind))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (64 * MIB, 64 * MIB))
    monkeypatch.setattr(ceilings_cuda, "_SIDE", 64)
    monkeypatch.setattr(ceilings_cuda.matrix_product, "__defaults__", (64,))
    monkeypatch.setattr(ceilings_cuda, "cached_copy", lambda: 5e12)
    found = ceilings_cuda.measure(torch.float32)
    assert found.flops_per_second > 0
    # Larger working sets than half of the memory are left out.
    assert [size for size, _ in found.copies] == [16 * MIB]
    assert 0 < found.bandwidth(1) < 1e12 and found.cached == 5e12
    again = Ceilings.from_json(found.to_json())
    assert again == found and again.best(found) == found


def test_a_cell_has_cold_and_warm_times_and_keeps_failures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Options, "budget", BUDGET)

    def broken(problem, tensors):
        def call():
            if Graph.capturing is not None:
                raise RuntimeError("an illegal memory access was encountered")
            return contenders.torch_call(problem, tensors)()

        return call

    # Only where the operands are is not as on a GPU.
    problem = Problem(Layer(3, 3, 1, 1, 1, 1, 8, 96, 96, 1, 1, 1, 1, bias=True), "dgrad")
    compared = [
        Contender("torch", "contiguous", contenders.torch_call),
        Contender("effkern", "channels_last", contenders.effkern_call, "auto"),
        Contender("torch_channels_last", "channels_last", broken),
    ]
    options = Options(device="cuda", peers=["torch"])
    roofline = Ceilings(1e12, [(1, 1e12)], {})
    small = SimpleNamespace(L2_cache_size=MIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: small)
    rows = {
        row["contender"]: row for row in cells.measure(problem, compared, options, roofline, 10)
    }
    for name in ("torch", "effkern"):
        row = rows[name]
        assert row["failure"] is None and row["graph"] is True and row["rounds"] == BUDGET.rounds
        assert row["warm_us"] >= 0 and row["median_us"] >= 0
    assert rows["torch_channels_last"]["graph"] is False


def test_the_commit_of_a_copy_without_git(monkeypatch):
    monkeypatch.setattr(machine, "_git", lambda *_: None)
    monkeypatch.delenv("EFFKERN_COMMIT", raising=False)
    assert machine.commit() == {"sha": None, "dirty": True}
    monkeypatch.setenv("EFFKERN_COMMIT", "abc")
    assert machine.commit() == {"sha": "abc", "dirty": False}
