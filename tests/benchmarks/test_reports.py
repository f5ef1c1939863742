"""From a run to its reports and their publication."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import analysis, publish, report
from benchmarks.__main__ import main
from benchmarks.report import findings, tables

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run, small: its results and its folder."""
    output = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks", "micro", "--quick", "--json", "--device", "cpu"]
    command += ["--model", "mobilenetv2_100", "--peers", "torch", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    return results, output / results["slug"]


@pytest.fixture
def results(run):
    return copy.deepcopy(run[0])


def test_every_pass_contender_and_layout_is_measured_and_right(results):
    cells = results["cells"]
    assert {row["pass"] for row in cells} == {"fwd", "dgrad", "wgrad"}
    assert all(row["failure"] is None and row["median_us"] > 0 for row in cells)
    assert {row["contender"] for row in cells} == set(results["contenders"])
    for row in cells:
        assert row["over_roofline"] == pytest.approx(row["median_us"] / row["floor_us"])


def test_all_files_are_written(run):
    _, folder = run
    names = {path.name for path in folder.iterdir()}
    assert {"micro.json", "micro.md", "micro.html"} < names
    assert {name for name in names if name.endswith(".png")} == {
        f"micro-{name}.png" for name in ("summary", "speedup", "over-roofline", "roofline")
    }


def test_the_page_needs_nothing_else(run):
    results, folder = run
    page = (folder / "micro.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert 'src="http' not in page and 'href="http' not in page
    assert results["cells"][0]["layer"] in page


def test_reports_are_rendered_again_from_the_json(run, tmp_path):
    _, folder = run
    data = tmp_path / "micro.json"
    data.write_text((folder / "micro.json").read_text())
    assert main(["report", str(data)]) == 0
    assert (tmp_path / "micro.md").read_text() == (folder / "micro.md").read_text()


def test_speedup_is_over_the_better_layout(results):
    cells = analysis.frame(results)
    for _, problem in cells.groupby(analysis.PROBLEM):
        times = problem.set_index("contender")
        best = min(times.loc[name, "median_us"] for name in analysis.TORCH)
        ours = times.loc["effkern"]
        assert ours["speedup"] == pytest.approx(best / ours["median_us"])


def test_a_refused_layer_is_in_no_mean_and_in_the_warnings(results):
    row = next(row for row in results["cells"] if row["contender"] == "effkern")
    row["failure"] = "wrong"
    kept = analysis.frame(results)
    assert len(kept) == len(results["cells"]) - 1
    assert any("Refused" in text and row["layer"] in text for text in findings.warnings(results))
    assert tables.build(results)


def _publishable(results):
    results["covers_default"], results["failed"] = True, False
    results["machine"]["native_library"] = True
    results["commit"] = {"sha": "0123456", "dirty": False}
    return results


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(failed=True), "wrong"),
        (lambda r: r.update(covers_default=False), "default scope"),
        (lambda r: r["machine"].update(native_library=False), "native library"),
        (lambda r: r["commit"].update(dirty=True), "uncommitted"),
        (lambda r: r["commit"].update(sha=None), "git checkout"),
    ],
)
def test_a_run_that_should_not_be_published_is_refused(results, change, reason):
    assert publish.objections(_publishable(results)) == []
    change(results)
    (objection,) = publish.objections(results)
    assert reason in objection


def test_publication_can_be_forced_with_a_note_that_every_report_shows(results, tmp_path):
    source, target = tmp_path / "from", tmp_path / "to"
    _publishable(results)["commit"]["dirty"] = True
    report.write(results, source)
    with pytest.raises(ValueError, match="uncommitted changes.*--force"):
        publish.publish(source, target)
    assert not target.exists()
    publish.publish(source, target, note="for a test")
    for name in ("micro.md", "micro.html"):
        text = (target / results["slug"] / name).read_text()
        assert "for a test" in text and "uncommitted" in text


def test_a_clean_run_is_published_as_it_is(results, tmp_path):
    report.write(_publishable(results), tmp_path / "from")
    files = publish.publish(tmp_path / "from", tmp_path / "to")
    assert {path.suffix for path in files} == {".json", ".md", ".html", ".png"}
    assert "published" not in report.read(files[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["micro", "--model", "resnet_50"], "--model: wanted one of"),
        (["micro", "--dtype", "int8"], "--dtype: wanted one of"),
        (["micro", "--batch", "0"], "--batch: wanted positive numbers, got 0"),
        (["micro", "--peers", "caffe"], "--peers: wanted some of"),
        (["report", "nowhere.json"], "nowhere.json"),
        (["publish", "nowhere"], "no results in nowhere"),
    ],
)
def test_bad_arguments_end_with_a_sentence_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
