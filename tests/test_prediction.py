"""The formula of predicted times, against cases that were computed by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import workloads
from effkern.prediction import (
    A100,
    H200,
    Costs,
    Rates,
    Work,
    dram_bytes,
    known_costs,
    predict,
    predict_call,
    terms,
)
from effkern.testing.predictions import slower


def test_rates_of_the_h200():
    # 132 multiprocessors, 4 warps of 32 lanes a cycle, 1.755e9 cycles.
    assert H200.issue == pytest.approx(29.65e12, rel=1e-3)
    assert H200.shared == pytest.approx(29.65e12, rel=1e-3)
    assert H200.special == pytest.approx(3.707e12, rel=1e-3)
    for ceilings in (H200, A100):
        figures = {"copy", "l2", "l2_bytes", "multiprocessors", "clock", "mma"}
        assert figures == set(ceilings.sources)


@pytest.mark.parametrize(
    "work, bound, microseconds",
    [
        # 43 MB at 4.3 TB/s.
        (Work(1000, 43e6, 0), "DRAM", 10.0),
        # Three quarters of L2 are 4 % less than a copy.
        (Work(1000, 43e6, 43e6), "L2", 10.42),
        # 15 instructions for each of 1e8 outputs at three quarters of 29.65 T/s.
        (Work(15e8 / 32, 43e6, 43e6), "issue", 67.46),
        (Work(1000, 43e6, 82.5e6), "L2", 20.0),
        # 128 bytes each, as many as the lanes of an issue.
        (Work(1000, 43e6, 0, shared_wavefronts=15e8 / 128), "shared memory", 67.46),
        (Work(1000, 43e6, 0, mma_flops=9e9), "tensor cores", 20.0),
        (Work(1000, 43e6, 0, special_functions=1e8), "special functions", 35.97),
        (Work(1000, 1e6, 1e6), "launch", 3.0),
    ],
)
def test_the_busiest_unit_decides(work, bound, microseconds):
    found = predict([work], 43e6, H200)
    assert found.bound == bound
    assert found.time * 1e6 == pytest.approx(microseconds, rel=1e-3)
    assert found.floor * 1e6 == pytest.approx(10.0)
    assert found.over_floor == pytest.approx(microseconds / 10, rel=1e-3)
    assert found.terms == terms(work, H200)


def test_launches_run_one_after_the_other():
    found = predict([Work(1, 43e6, 0), Work(1, 0, 0)], 43e6, H200)
    assert found.time * 1e6 == pytest.approx(13.0)
    assert found.bound == "DRAM" and found.terms["launch"] * 1e6 == pytest.approx(6.0)


def test_what_is_read_again_comes_from_l2_if_it_is_still_there():
    assert dram_bytes(150, 100, H200.l2_bytes, H200) == 100
    assert dram_bytes(150, 100, H200.l2_bytes + 1, H200) == 150
    # Never less than the tensors, whatever a sample of the blocks says.
    assert dram_bytes(90, 100, H200.l2_bytes + 1, H200) == 100


@pytest.mark.parametrize("launches, distinct", [([], 1), ([Work(1, 1, 1)], 0)])
def test_nothing_to_predict(launches, distinct):
    with pytest.raises(ValueError, match=r"^effkern.prediction.predict: wanted launches and bytes"):
        predict(launches, distinct, H200)


def test_the_rule_of_three_percent():
    before = {"a": {"microseconds": 100.0}, "b": {"microseconds": 50.0}, "c": {}, "gone": {}}
    after = {"a": {"microseconds": 103.0}, "b": {"microseconds": 51.6}, "c": {"microseconds": 9}}
    assert slower(before, after) == ["b: predicted time: wanted at most 51.5 us, got 51.6"]


RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "h200-predicted" / "predicted.json"
PASSES = {"fwd": "forward", "dgrad": "grad_input", "wgrad": "grad_weight"}


def problem_of(cell, layer):
    """As effkern.explanation has it, with its outputs and bytes."""
    sizes = asdict(layer) | {"batch": cell["batch"], "in_channels": layer.channels}
    sizes |= {"out_channels": layer.out_channels, "pass_": PASSES[cell["pass"]]}
    pixels = layer.out_height * layer.out_width
    if cell["pass"] == "dgrad":
        pixels = layer.height * layer.width
    outputs = cell["batch"] * layer.channels * pixels
    return sizes | {"dtype": cell["dtype"], "layout": cell["layout"]}, outputs


@pytest.mark.skipif(not RESULT.is_file(), reason="the published results are not here")
def test_plans_have_the_published_predictions():
    result = json.loads(RESULT.read_text())
    layers = {layer.name: layer for layer in workloads.distinct(result["options"]["models"])}
    for cell in result["cells"]:
        problem, outputs = problem_of(cell, layers[cell["layer"]])
        costs = known_costs(cell["kernels"], problem, cell["kernel"])
        distinct = cell["floor_us"] * 1e-6 * H200.copy
        found, dram = predict_call(costs, outputs, distinct, cell["batch"], H200)
        # Four digits of each cost.
        assert found.time * 1e6 == pytest.approx(cell["time_us"], rel=2e-3)
        assert costs.instructions == pytest.approx(cell["instructions_per_output"], rel=1e-3)
        # Several launches hand results on, through device memory if they exceed L2.
        if len(costs.launches) == 1:
            assert dram == pytest.approx(distinct)
        else:
            assert dram >= distinct * (1 - 1e-6)


@pytest.mark.skipif(not RESULT.is_file(), reason="the published results are not here")
def test_costs_are_those_of_the_published_predictions():
    tool = Path(__file__).parents[1] / "tools" / "predicted_costs.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def plain_problem(**changes):
    sizes = {"batch": 8, "in_channels": 192, "out_channels": 192, "height": 56, "width": 56}
    for name, value in (("kernel", 7), ("stride", 1), ("dilation", 1)):
        sizes |= {f"{name}_h": value, f"{name}_w": value}
    return sizes | {
        "pass_": "forward", "dtype": "bfloat16", "layout": "channels_last"
    } | changes  # fmt: skip


def test_costs_of_the_nearest_layer_or_none():
    found = known_costs("cuda", plain_problem())
    assert found.layer[1:] == (56, 56) and "toeplitz_channels_last" in found.code
    half = replace(found, code=found.code.replace("bfloat16", "float16"))
    assert known_costs("cuda", plain_problem(dtype="float16")) == half
    assert known_costs("cuda", plain_problem(dtype="float16"), half.code) == half
    assert known_costs("cuda", plain_problem(height=100, width=60)).layer[1:] == (56, 56)
    for unknown in (
        {"height": 300},
        {"width": 3},
        {"dtype": "float64"},
        {"layout": "strided"},
        {"kernel_h": 11, "kernel_w": 11},
        {"dilation_w": 2},
        {"out_channels": 384},
    ):
        assert known_costs("cuda", plain_problem(**unknown)) is None
    assert known_costs("cuda", plain_problem(), "another_kernel<bfloat16>") is None


def test_one_launch_reads_the_operands():
    costs = Costs((1, 1, 1), "", (Rates(1, 4, 0, 0, 0), Rates(2, 0.5, 0, 0, 0)), 0)
    main, reduction = costs.works(1e6, 3e6, 3e6, H200)
    assert (main.dram_bytes, main.l2_bytes) == (3e6, 4e6)
    assert (reduction.dram_bytes, reduction.l2_bytes) == (0, 0.5e6)
    assert costs.instructions == 3 and costs.l2_bytes == 4.5


def test_images_larger_than_l2_are_read_again():
    costs = Costs((1, 1, 1), "", (Rates(1.0, 6.0, 0.0, 0.0, 0.0),))
    for images, wanted in ((8, 400e6), (1, 600e6)):
        assert predict_call(costs, 100_000_000, 400e6, images, H200)[1] == wanted
