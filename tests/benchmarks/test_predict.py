"""The command that predicts times, from machine code to its reports."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import effkern
from benchmarks import publish, report
from benchmarks.__main__ import main
from benchmarks.predict import Options
from benchmarks.report import document, predicted
from effkern import _library
from effkern.testing import cuda_gate

ROOT = Path(__file__).parents[2]
LIBRARY = Path(effkern.__file__).with_name("libeffkern_ops.so")


def not_here(reason):
    if "cuda_emulated" in os.environ.get("EFFKERN_REQUIRE_BACKENDS", ""):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run, small: its results and its folder."""
    if error := _library.emulation_error():
        not_here(str(error))
    if 90 not in cuda_gate.capabilities(LIBRARY):
        not_here("wanted a library with CUDA code for sm_90, got none")
    output = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "predict", "--quick", "--json"]
    command += ["--model", "mobilenetv2_100", "--dtype", "bfloat16", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    return results, output / results["slug"]


@pytest.fixture
def results(run):
    return copy.deepcopy(run[0])


def test_every_pass_layout_and_kernel_is_predicted(results):
    cells = results["cells"]
    assert results["slug"] == "h200-predicted" and not results["failed"]
    assert len(cells) == 2 * 3 * 2 * 2
    assert len({(c["layer"], c["pass"], c["layout"], c["kernels"]) for c in cells}) == len(cells)
    for row in cells:
        assert row["over_floor"] == pytest.approx(row["time_us"] / row["floor_us"])
        assert row["time_us"] >= max(row["terms_us"].values()) / row["launches"]
        # No kernel beats the bytes that it has to move.
        assert row["over_floor"] > 1
        # More than the multiply-adds of a 3x3 kernel, which an input gradient of stride 2 shares
        # among four positions, and up to a few thousand.
        shared = 4 if row["pass"] == "dgrad" and "s2" in row["layer"] else 1
        assert 9 / shared < row["instructions_per_output"] < 5000
        assert 0 <= row["multiply_add_share"] < 1 and 0 < row["occupancy"] <= 1
        assert row["multiply_add_share"] > 0 or row["terms_us"]["tensor cores"] > 0
        assert row["registers"] <= 255


def test_all_files_are_written(run):
    results, folder = run
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(f"predicted.{suffix}" for suffix in ("json", "md", "html")),
        *(f"predicted-{name}.png" for name in ("over-floor", "instructions")),
    }
    page, text = (folder / "predicted.html").read_text(), (folder / "predicted.md").read_text()
    assert page.count("data:image/png;base64,") == 2
    for shown in (page, text):
        assert "Predicted, not measured" in shown and results["cells"][0]["layer"] in shown
    assert report.read(folder / "predicted.json") == results


def test_a_prediction_is_never_taken_for_a_measurement(results):
    shown = document.build(results)
    assert "predicted" in shown.title and shown.warnings[0].startswith("Predicted, not measured")
    assert ("Device", "H200 (sm_90), not there") in shown.setting


def test_findings_name_the_worst_layer(results):
    cells = [row for row in results["cells"] if row["pass"] == "fwd"]
    cells[0]["time_us"] = cells[0]["over_floor"] = 0.5
    cells[0]["bound"] = "L2"
    (finding, *_) = predicted.findings(results)
    assert finding.startswith("Forward, bfloat16, batch 128: the fastest kernel of each layer")
    best = predicted.fastest(predicted.frame(results))
    worst = best[best["pass"] == "fwd"]["over_floor"].idxmax()
    assert f"worst {best.loc[worst, 'layer']} with" in finding


def test_failed_predictions_are_shown_and_not_published(results, tmp_path):
    results["cells"][0] = {
        name: results["cells"][0][name]
        for name in ("layer", "kind", "pass", "dtype", "batch", "layout", "kernels")
    } | {"failure": "RuntimeError: no code"}
    results["failed"] = True
    assert "1 predictions failed, the first: RuntimeError: no code" in predicted.warnings(results)
    found = publish.objections(results)
    assert "a result was wrong or a contender raised an error" in found
    report.write(results, tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--dtype", "float64"],
            "--dtype: wanted one of bfloat16, float16, float32, got 'float64'",
        ),
        (["--pass", "both"], "--pass: wanted one of fwd, dgrad, wgrad, got 'both'"),
        (["--layout", "nhwc"], "--layout: wanted one of contiguous, channels_last, got 'nhwc'"),
        (["--sm", "70"], "--sm: wanted one of 80, 90, got 70"),
        (["--batch", "0"], "--batch: wanted positive numbers, got 0"),
    ],
)
def test_bad_options(arguments, message, capsys):
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_the_emulated_library(monkeypatch, capsys):
    monkeypatch.setattr(_library, "_emulation_error", ImportError("it does not exist"))
    assert main(["predict"]) == 2
    error = capsys.readouterr().err
    assert "predict: wanted the emulated library, got it does not exist" in error


def test_what_covers_the_default(monkeypatch):
    monkeypatch.setattr(_library, "_emulation_error", None)
    assert Options().covers_default and Options(batches=[1, 128]).covers_default
    assert not Options(quick=True).covers_default and not Options(passes=["fwd"]).covers_default
