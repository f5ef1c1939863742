"""The other runtimes as contenders, each as far as it is installed."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cells, correctness, peers
from benchmarks.ceilings import Ceilings
from benchmarks.contenders import PEERS, contenders, limits, missing
from benchmarks.options import Options
from benchmarks.peers.model import Operands
from benchmarks.peers.process import PeerProcess, PeerTimed
from benchmarks.problem import Problem, random_tensors
from benchmarks.timing import Budget
from benchmarks.workloads import Layer

BUDGET = Budget(rounds=2, block=0.002, cap=1.0, total=10.0)
CEILINGS = Ceilings(1e11, [(1 << 17, 2e11), (1 << 20, 1e11)], {"flops": "", "copies": ""})
SAME = Layer(3, 3, 1, 1, 1, 1, 8, 12, 12, 1, 1, 1, 1, bias=True)
LAYERS = {
    "same": SAME,
    "no_bias": Layer(5, 5, 1, 1, 1, 1, 8, 9, 9, 2, 2, 2, 2),
    "stride_2": Layer(3, 3, 2, 2, 1, 1, 8, 12, 12, 1, 1, 1, 1, bias=True),
    "no_padding": Layer(7, 7, 1, 1, 1, 1, 24, 9, 9, 0, 0, 0, 0, bias=True),
    "rectangular": Layer(3, 5, 2, 1, 1, 1, 5, 9, 11, 1, 1, 2, 2),
    "dilated": Layer(3, 3, 1, 1, 2, 2, 8, 12, 12, 2, 2, 2, 2, bias=True),
    "multiplier": Layer(3, 3, 1, 1, 1, 1, 4, 8, 8, 1, 1, 1, 1, multiplier=2, bias=True),
}


@pytest.fixture
def options(monkeypatch):
    monkeypatch.setattr(Options, "budget", BUDGET)
    return Options(device="cpu", peers=["torch"])


def peer(name):
    reason = peers.absence(name, "cpu", cold=False)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    (found,) = contenders("cpu", [], [name])
    return found


@pytest.fixture(params=list(peers.REQUIRED))
def contender(request):
    found = peer(request.param)
    yield found
    found.close()


def test_a_peer_computes_every_layer_within_the_bound(contender):
    for name, layer in LAYERS.items():
        problem = Problem(layer, "fwd")
        tensors = random_tensors(problem)
        expected = correctness.reference(problem, tensors)
        call = contender.build(problem, tensors.to(contender.layout))
        assert correctness.failure(problem, expected, contender.layout, call) is None, name


def test_a_peer_is_checked_and_timed_like_the_others(contender, options):
    chosen = [*contenders("cpu", ["contiguous"], ["torch"]), contender]
    problem = Problem(SAME, "fwd")
    rows = {r["contender"]: r for r in cells.measure(problem, chosen, options, CEILINGS, 10)}
    assert rows[contender.name]["failure"] is None
    assert rows[contender.name]["rounds"] == BUDGET.rounds
    assert 0 < rows[contender.name]["min_us"] <= rows[contender.name]["median_us"]


def test_a_peer_takes_more_images_than_one_or_says_so(contender):
    problem = Problem(SAME, "fwd", batch=3)
    tensors = random_tensors(problem)
    if contender.limit(problem) is not None:
        with pytest.raises(RuntimeError, match="wanted one image, got 3"):
            contender.build(problem, tensors)
        return
    expected = correctness.reference(problem, tensors)
    call = contender.build(problem, tensors.to(contender.layout))
    assert correctness.failure(problem, expected, contender.layout, call) is None


def test_limits_are_named_and_not_measured(options):
    chosen = contenders("cpu", [], list(peers.REQUIRED))
    problems = [Problem(SAME, "fwd", batch=2), Problem(SAME, "wgrad")]
    problems.append(Problem(SAME, "fwd", "bfloat16"))
    found = limits(chosen, problems)
    assert found["litert"] == ["float32 only", "forward only"]
    assert found["ncnn"] == ["float32 only", "forward only", "one image a call"]
    assert cells.measure(problems[1], chosen, options, CEILINGS, 10) == []


def test_missing_peers_are_named(monkeypatch):
    assert missing(["torch", "torch.compile"], "cpu") == {}
    installed = [name for name in peers.REQUIRED if all(map(find_spec, peers.REQUIRED[name]))]
    assert set(missing(PEERS, "cpu")) == set(peers.REQUIRED) - set(installed)
    assert (
        set(missing(PEERS, "cuda")) == set(missing(PEERS, "cpu", cold=True)) == set(peers.REQUIRED)
    )
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: None)
    assert missing(["torch", "litert"], "cpu") == {
        "litert": "not installed: ai_edge_litert, flatbuffers, onnx"
    }
    with pytest.raises(ValueError, match="--peers: wanted some of torch.*got 'caffe'"):
        missing(["caffe"], "cpu")


def test_a_peer_that_cannot_be_loaded_is_a_failure_of_its_own(options):
    process = PeerProcess("no_such_runtime")
    (ncnn,) = contenders("cpu", [], ["ncnn"])
    broken = replace(ncnn, build=lambda problem, tensors: process.ask("build", None, 1))
    chosen = [*contenders("cpu", ["contiguous"], ["torch"]), broken]
    rows = {
        row["contender"]: row
        for row in cells.measure(Problem(SAME, "fwd"), chosen, options, CEILINGS, 10)
    }
    process.close()
    assert "ModuleNotFoundError" in rows["ncnn"]["failure"] and "median_us" not in rows["ncnn"]
    assert rows["torch"]["failure"] is None and rows["torch"]["median_us"] > 0


def test_a_peer_whose_process_ends_is_a_failure_and_starts_again(contender, options, monkeypatch):
    block = PeerTimed.block

    def killed(self, count, guess):
        self.process._process.kill()
        return block(self, count, guess)

    chosen = [*contenders("cpu", ["contiguous"], ["torch"]), contender]
    problem = Problem(SAME, "fwd")
    with monkeypatch.context() as patch:
        patch.setattr(PeerTimed, "block", killed)
        rows = {r["contender"]: r for r in cells.measure(problem, chosen, options, CEILINGS, 10)}
    assert "its process ended with status -9" in rows[contender.name]["failure"]
    assert rows["effkern"]["rounds"] == BUDGET.rounds
    (row,) = cells.measure(problem, [contender], options, CEILINGS, 10)
    assert row["failure"] is None


def test_a_wrong_peer_is_refused(contender, options):
    def wrong(problem, tensors):
        tensors.weight[0, 0, 0, 0] += 1e-3
        return contender.build(problem, tensors)

    chosen = [replace(contender, build=wrong)]
    (row,) = cells.measure(Problem(SAME, "fwd"), chosen, options, CEILINGS, 10)
    assert "rounding units" in row["failure"] and "median_us" not in row


def test_a_peer_shares_its_process_with_nobody(contender):
    process = PeerProcess(contender.name)
    x, w = np.ones((1, 8, 12, 12), np.float32), np.ones((8, 1, 3, 3), np.float32)
    process.ask("build", Operands(replace(SAME, bias=False), x, w, None), 1)
    libraries = Path(f"/proc/{process._process.pid}/maps")
    if libraries.exists():
        assert "libtorch" not in libraries.read_text()
    process.close()
