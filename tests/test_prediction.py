"""The formula of predicted times, against cases that were computed by hand."""

from __future__ import annotations

import pytest

from effkern.prediction import A100, H200, Work, dram_bytes, predict, terms
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
