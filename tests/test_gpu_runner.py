"""`make gpu`: its state, its limits, its archive, and its command lines, without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import gpu
import gpu_archive
import gpu_slices
import pytest
from gpu_slices import Command, Slice

ROOT = Path(__file__).resolve().parents[1]
KEY = {"sources": "a", "torch": "b"}


def slice_of(name, code, *, tool=None, limit=20.0):
    """A slice that runs Python code, with the folder for its files as argument."""
    return Slice(name, "", (Command((sys.executable, "-c", code, "{out}")),), tool, limit)


def writes(text):
    return f"import pathlib, sys; pathlib.Path(sys.argv[1], 'found.json').write_text('{text}')"


FAILS = "import sys; print('what went wrong'); sys.exit(3)"
# Leaves a process behind that would outlive it.
HANGS = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True)"


@pytest.fixture
def runner(tmp_path):
    def make(key=KEY):
        return gpu.Runner(tmp_path, tmp_path / "gpu-x", tmp_path / "out" / "gpu-x.tar.gz", key)

    return make


def names(slices):
    return [one.name for one in slices]


def test_a_failure_does_not_stop_the_others_and_is_run_again(runner, capfd):
    slices = [slice_of("good", writes(1)), slice_of("bad", FAILS), slice_of("last", writes(2))]
    first = runner()
    assert not first.run(first.missing(slices))
    assert [first.status(one.name) for one in slices] == ["passed", "failed", "passed"]
    assert "what went wrong" in capfd.readouterr().out
    second = runner()
    assert names(second.missing(slices)) == ["bad"]
    assert second.run([slice_of("bad", writes(3))])
    assert runner().missing(slices) == []


def test_what_was_never_run_comes_before_what_failed(runner):
    first = runner()
    assert not first.run([slice_of("bad", FAILS)])
    slices = [slice_of("bad", FAILS), slice_of("new", writes(1))]
    assert names(runner().missing(slices)) == ["new", "bad"]


def test_other_sources_or_versions_start_again(runner):
    one = slice_of("good", writes(1))
    assert runner().run([one])
    assert names(runner(KEY | {"sources": "c"}).missing([one])) == ["good"]
    assert runner().missing([one]) == []


def test_a_slice_that_hangs_ends_with_all_it_started(runner, tmp_path):
    first, start = runner(), time.monotonic()
    assert not first.run([slice_of("slow", HANGS + "; time.sleep(60)", limit=1.0)])
    assert time.monotonic() - start < 10
    assert first.status("slow") == "timeout"
    text = (tmp_path / "gpu-x" / "slow.log").read_text()
    child = int(text.splitlines()[1])
    deadline = time.monotonic() + 5
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid):
    try:
        # A process that has ended may wait for its parent.
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_missing_tool_is_no_failure_and_is_looked_for_again(runner):
    one = slice_of("traced", FAILS, tool="no-such-tool-of-effkern")
    first = runner()
    assert first.run([one]) and first.status("traced") == "skipped"
    assert names(runner().missing([one])) == ["traced"]


def test_a_missing_program_is_a_failure(runner):
    first = runner()
    assert not first.run([Slice("gone", "", (Command(("no-such-program-of-effkern",)),))])
    assert first.status("gone") == "failed"


def test_nothing_starts_without_time_and_what_starts_ends_in_time(runner):
    first = runner()
    one = slice_of("good", writes(1), limit=540.0)
    assert not first.run([one], time.monotonic() + 15)
    assert first.status("good") == "missing"
    assert first.run([one], time.monotonic() + 45)
    assert first.state["slices"]["good"]["limit"] < 36


def test_the_commands_of_a_slice_stop_at_the_first_failure(runner, tmp_path):
    commands = [Command((sys.executable, "-c", code, "{out}")) for code in (FAILS, writes(1))]
    first = runner()
    assert not first.run([Slice("two", "", tuple(commands))])
    assert list((tmp_path / "gpu-x" / "two").iterdir()) == []


def test_the_archive_continues_elsewhere_and_stays_small(runner, tmp_path):
    large = "import pathlib, sys; out = pathlib.Path(sys.argv[1]); print('x' * 3_000_000);"
    large += "(out / 'huge.json').write_bytes(bytes(5 << 20)); (out / 'program').write_text('')"
    slices = [slice_of("good", writes(1)), slice_of("large", large), slice_of("bad", FAILS)]
    first = runner()
    first.run(slices)
    with tarfile.open(first.archive) as archive:
        sizes = {member.name: member.size for member in archive.getmembers()}
    assert {"gpu-x/state.json", "gpu-x/good/found.json", "gpu-x/bad.log"} <= sizes.keys()
    assert not {"gpu-x/large/huge.json", "gpu-x/large/program"} & sizes.keys()
    assert "gpu-x/left-out.txt" in sizes and sizes["gpu-x/large.log"] < 600_000
    folder = tmp_path / "elsewhere"
    gpu_archive.read(first.archive, folder)
    second = gpu.Runner(tmp_path, folder, tmp_path / "second.tar.gz", KEY)
    assert names(second.missing(slices)) == ["bad"]
    assert (folder / "good" / "found.json").read_text() == "1"


def test_an_archive_writes_nothing_outside_its_folder(tmp_path):
    evil = tmp_path / "evil.tar.gz"
    (tmp_path / "x").write_text("x")
    with tarfile.open(evil, "w:gz") as archive:
        archive.add(tmp_path / "x", "gpu-x/../../escaped")
    gpu_archive.read(evil, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("dry", [False, True])
def test_every_command_line_is_understood(dry):
    from benchmarks import __main__ as benchmarks

    found = list(gpu_slices.slices(dry, "90", "nvcc"))
    assert len(set(names(found))) == len(found) > 15
    assert names(found)[0] == "build"
    for one in found:
        assert one.limit <= gpu_slices.LIMIT < 600
        for command in one.commands:
            words = list(command.words)
            if "benchmarks" in words:
                options = benchmarks.parser(None).parse_args(words[words.index("benchmarks") + 1 :])
                assert (options.device == "cpu") == dry and options.dtypes
            for path in (word for word in words if word.startswith(("tests/", "tools/", "csrc/"))):
                assert (ROOT / path).exists(), path
            if "--backend" in words:
                assert ("emulated" in str(words) or "interpreted" in str(words)) == dry


def test_the_parts_of_the_tests_are_all_of_them():
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    words += ["tests/nn/test_depthwise_conv2d_module.py", "--backend", "cpu", "-p", "gpu_shard"]

    def collected(*more):
        done = subprocess.run(
            [*words, *more],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "tools")},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line for line in done.stdout.splitlines() if "::" in line]

    parts = [collected("--shard", f"{part}/2") for part in (1, 2)]
    assert all(parts) and sorted(sum(parts, [])) == sorted(collected())


def test_wrong_names_end_with_a_message(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--dry-run", "no-such-slice"])
    assert "got no-such-slice" in capsys.readouterr().err


def test_state_is_json(runner, tmp_path):
    assert runner().run([slice_of("good", writes(1))])
    state = json.loads((tmp_path / "gpu-x" / "state.json").read_text())
    assert state["key"] == KEY and state["slices"]["good"]["exit"] == 0
