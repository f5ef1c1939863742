"""`python -m benchmarks counters`: the run, and what its report says."""

from __future__ import annotations

import shutil

import pytest
from rich.console import Console

from benchmarks import counters, report
from benchmarks.__main__ import main
from benchmarks.options import Options
from benchmarks.report import counted, document

# What valgrind 3.19 writes, shortened.
DUMP = """# callgrind format
version: 1
creator: callgrind-3.19.0
desc: Trigger: Client Request: {name}
positions: line
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw
summary: 100 40 20 1 7 5 1 3 2
"""


@pytest.fixture(scope="module")
def results():
    """Of a real run; without valgrind or a build in this checkout there is none."""
    if shutil.which("valgrind") is None or not counters.BUILD.is_dir():
        pytest.skip("wants valgrind and `make build`")
    options = Options(models=["efficientnet_b0"], scope="quick", device="cpu")
    return counters.run(options, Console(quiet=True))


def test_dumps_are_read(tmp_path):
    (tmp_path / "callgrind.out.7.1").write_text(DUMP.format(name=12))
    # What the program did outside of the calls.
    (tmp_path / "callgrind.out.7").write_text(
        DUMP.format(name=0).replace("Client Request: 0", "Program termination")
    )
    ((name, events),) = counters._counts(tmp_path)
    assert name == 12
    assert (events["Ir"], events["D1mr"], events["DLmw"]) == (100, 7, 2)


def test_zeros_that_a_dump_leaves_out(tmp_path):
    summary = "summary: 100 30 20\n"
    lines = DUMP.format(name=3).splitlines(keepends=True)
    dump = "".join(summary if line.startswith("summary") else line for line in lines)
    (tmp_path / "callgrind.out.7.1").write_text(dump)
    ((_, events),) = counters._counts(tmp_path)
    assert (events["Ir"], events["Dw"], events["DLmw"]) == (100, 20, 0)


def test_every_pass_and_layout_is_counted(results):
    layers = {row["layer"] for row in results["cells"]}
    found = {(row["layer"], row["pass"], row["layout"]) for row in results["cells"]}
    assert len(found) == len(results["cells"]) == 6 * len(layers)
    for row in results["cells"]:
        # Each vector of pixels is multiplied by an instruction, and each tensor is touched.
        assert row["instructions"] > row["vectors"]
        assert row["l1_misses"] > 0.2 * row["lines"]
        assert row["kernel_us"] > 0


def test_the_report(results, tmp_path):
    files = report.write(results, tmp_path)
    assert {file.suffix for file in files} == {".json", ".md", ".html", ".png"}
    assert all(file.stat().st_size > 1000 for file in files)
    built = document.build(report.read(tmp_path / "counters.json"))
    assert len(built.findings) == 6
    assert "quick" in built.warnings[0]


def test_ratios():
    row = {
        "layer": "a", "kind": "k", "pass": "fwd", "dtype": "float32", "batch": 1,
        "layout": "contiguous", "kernel_us": 10.0, "vectors": 1e4, "lines": 100,
        "instructions": 3e4, "l1_misses": 250, "l2_misses": 50,
    }  # fmt: skip
    results = {
        "cells": [row], "layers": {"a": {}}, "machine": {"lanes": 8, "threads": 2},
        "ceilings": {"flops_per_second": 2 * 32 * 3e9},
    }  # fmt: skip
    cell = counted.frame(results).iloc[0]
    assert counted.clock(results) == 3e9
    assert (cell["per_vector"], cell["l1"], cell["l2"]) == (3, 2.5, 0.5)
    assert cell["cycles"] == pytest.approx(3)
    assert cell["ipc"] == pytest.approx(1)


def test_without_a_build(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(counters, "BUILD", tmp_path)
    assert main(["counters", "--output", str(tmp_path)]) == 2
    assert "run `make build` first" in capsys.readouterr().err
