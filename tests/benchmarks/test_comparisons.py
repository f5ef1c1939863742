"""effkern against the best peer, 16-bit against float32, and both against the goals."""

from __future__ import annotations

import pytest

from benchmarks import analysis, comparisons, contenders, goals, workloads
from benchmarks.report import comparison_tables, findings, setting, tables

LAYERS = workloads.distinct(workloads.models())
# Microseconds where the roofline says 1, on all layers but the first.
TIMES = {
    "torch": 8.0,
    "torch_channels_last": 6.0,
    "litert": 3.0,
    "effkern": 1.5,
    "effkern_channels_last": 1.2,
}
FIRST = next(iter(LAYERS))


def row(layer, contender, microseconds, pass_="fwd", dtype="float32", batch=1):
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "pass": pass_,
        "dtype": dtype,
        "batch": batch,
        "contender": contender,
        "median_us": microseconds,
        "p20_us": microseconds,
        "over_roofline": microseconds,
        "floor_us": 1.0,
        "bytes": 1 << 20,
        "page_faults": 0.0,
        "failure": None,
    }


@pytest.fixture
def results():
    cells = [row(layer, name, time) for layer in LAYERS for name, time in TIMES.items()]
    for cell in cells:
        if cell["layer"] == FIRST.name and cell["contender"] == "litert":
            cell["median_us"] = 1.35
    return {
        "cells": cells,
        "layers": {layer.name: uses for layer, uses in LAYERS.items()},
        "machine": {"device": "cpu"},
        "allocator_keeps_blocks": True,
    }


def summary(results):
    table = comparisons.best_peer_summary(analysis.frame(results))
    return table.set_index("contender")


def test_the_best_peer_is_the_fastest_on_that_very_layer(results):
    ours = summary(results).loc["effkern"]
    assert ours["layers"] == len(LAYERS) and ours["peers"] == f"LiteRT {len(LAYERS)}"
    assert ours["worst"] == pytest.approx(1.35 / 1.5) and ours["worst_layer"] == FIRST.name
    assert ours["mean"] == pytest.approx((2.0 ** (len(LAYERS) - 1) * 0.9) ** (1 / len(LAYERS)))
    results["cells"] = [c for c in results["cells"] if c["contender"] != "litert"]
    assert summary(results).loc["effkern", "peers"] == f"torch channels_last {len(LAYERS)}"
    assert summary(results).loc["effkern", "mean"] == pytest.approx(4)


def test_a_contender_that_is_listed_beside_the_others_is_no_best_peer(results):
    beside = {"ranked": False, "error_over_bound": 3.0}
    results["cells"] = [cell | {"ranked": True} for cell in results["cells"]]
    results["cells"] += [row(layer, "ncnn", 0.5) | beside for layer in LAYERS]
    assert "ncnn" not in summary(results).loc["effkern", "peers"]
    cells = analysis.frame(results)
    (told,) = findings.unranked_peers(cells)
    assert f"on {len(LAYERS)} of {len(LAYERS)} measurements, and 3 times" in told
    found = {
        table.title: table for table in tables.build(results | {"kind": "blocks", "memory": []})
    }
    assert "ncnn is no best peer" in found["Against the best peer of each layer"].note
    times = found["fwd: microseconds per layer"]
    assert {tuple(r[-1:]) for r in times.rows} == {("3.00",)}
    assert times.columns[-1] == "ncnn: error / bound"
    # The fastest is another one, effkern's.
    assert {times.columns[column] for _, column in times.best} == {"effkern channels_last"}
    only = [c for c in results["cells"] if c["contender"] in ("ncnn", "effkern")]
    assert comparison_tables.build(results, analysis.frame(results | {"cells": only}))[0].title != (
        "Against the best peer of each layer"
    )


def test_16_bit_times_are_set_against_the_same_contender_in_float32(results):
    assert not len(comparisons.half_summary(analysis.frame(results)))
    slow = list(LAYERS)[5]
    results["cells"] += [
        row(layer, "effkern", 3.0 if layer is slow else 0.75, dtype="bfloat16") for layer in LAYERS
    ]
    results["cells"] += [row(layer, "torch", 99.0, dtype="bfloat16") for layer in LAYERS]
    cells = analysis.frame(results)
    (found,) = comparisons.half_summary(cells).to_dict("records")
    assert (found["contender"], found["dtype"]) == ("effkern", "bfloat16")
    assert (found["worst"], found["worst_layer"]) == (2.0, slow.name)
    titles = [table.title for table in comparison_tables.build(results, cells)]
    assert "16-bit time over effkern's own float32 time" in titles
    assert "16-bit time over effkern's own float32 time, by layer" in titles


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("k3 s1", "3x3 s1"),
        ("k3 s2", "3x3 s2"),
        ("k5 s2", "5x5"),
        ("k7 s1", "7x7"),
        ("k13 s1", "k >= 13"),
        ("k3x31 s1", "k >= 13"),
        ("k3x5 s1x2", "3x5"),
    ],
)
def test_classes(kind, group):
    assert analysis.group(kind) == group


def test_the_table_by_class_has_every_layer_once_and_all_of_them_last(results):
    table = analysis.by_group(analysis.frame(results), "over_roofline")
    assert list(table["class"]) == ["3x3 s1", "3x3 s2", "5x5", "7x7", "k >= 13", "all"]
    assert table["layers"].iloc[:-1].sum() == table["layers"].iloc[-1] == len(LAYERS)
    assert table["litert"].iloc[-1] == pytest.approx(3.0)


def goal_tables(results):
    tables = comparison_tables.build(results, analysis.frame(results))
    return {table.title: table for table in tables if table.title.startswith("Goals")}


def test_goals_are_met_or_not(results):
    (table,) = goal_tables(results).values()
    rows = {row[1]: row for row in table.rows}
    # time / roofline, times as fast, worst layer: 0.9 is below 0.95.
    assert rows["effkern NCHW"][2:5] == ["1.50", "<= 1.8", "yes"]
    assert rows["effkern NCHW"][5:8] == ["1.96", ">= 2", "no"]
    assert rows["effkern NCHW"][8:] == ["0.90", ">= 0.95", "no"]
    assert rows["effkern channels_last"][10] == "yes"


def test_without_peers_only_the_roofline_is_set_against_a_goal(results):
    results["cells"] = [cell for cell in results["cells"] if cell["contender"] == "effkern"]
    (table,) = goal_tables(results).values()
    assert {tuple(row[5:]) for row in table.rows} == {("",) * 6}
    assert [row[4] for row in table.rows if row[1] == "effkern NCHW"] == ["yes"]


def test_each_batch_size_has_goals_of_its_own_and_quick_runs_none(results):
    cells = results["cells"]
    results["cells"] = cells + [cell | {"batch": 16} for cell in cells]
    tables = goal_tables(results)
    assert list(tables) == ["Goals, float32, batch 1", "Goals, float32, batch 16"]
    goal = f"<= {goals.OVER_ROOFLINE['fwd'][16]:g}"
    assert {row[3] for row in tables["Goals, float32, batch 16"].rows} == {goal}
    del results["layers"][FIRST.name]
    assert goal_tables(results) == {}


def test_the_report_says_whether_the_allocator_was_warm(results):
    assert "no contender touched fresh pages" in setting.allocator(results)
    results["cells"][7] |= {"page_faults": 300.0, "pass": "wgrad"}
    assert f"on 1 of {len(results['cells'])} measurements" in setting.allocator(results)
    assert "wgrad" in setting.allocator(results) and "300 a call" in setting.allocator(results)


def test_findings_name_the_worst_layer(results):
    (_, second) = findings.best_peers(analysis.frame(results))
    assert f"on the worst layer ({FIRST.name}) 1.13x" in second


@pytest.mark.parametrize(
    "contender, failed", (("litert", False), ("torch", True), ("effkern_channels_last", True))
)
def test_a_run_fails_by_its_own_results_only(contender, failed):
    cells = [row(FIRST, name, 1.0) | {"failure": None} for name in TIMES]
    assert not contenders.failed(cells)
    assert contenders.failed([*cells, row(FIRST, contender, 1.0) | {"failure": "wrong"}]) == failed
