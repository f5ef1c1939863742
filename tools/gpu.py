"""Everything that is to be done on a machine with one GPU and no network, in slices.

    python tools/gpu.py                      the slices that are missing, then the archive
    python tools/gpu.py build tests-cuda-1   these slices, done or not
    python tools/gpu.py --list               all slices, and how they stand
    python tools/gpu.py --dry-run            the same command lines without a GPU, shortened

A slice takes less than ten minutes and can be repeated. What is done is remembered for these
sources and versions; a slice that fails or runs out of time does not stop the others, and is run
again next time. Logs, test reports, measurements and facts of the machine end up in one archive,
results/gpu-<device>-<commit>.tar.gz or in the folder $OUT; --resume goes on from it elsewhere.
`make gpu` sets up first and calls this.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gpu_archive
from gpu_slices import Slice, slices

ROOT = Path(__file__).resolve().parents[1]
# Imported by the build, the tests or the benchmarks.
REQUIRED = (
    *("torch", "triton", "setuptools", "packaging", "pybind11", "ninja", "pytest", "hypothesis"),
    *("numpy", "pandas", "matplotlib", "jinja2", "rich"),
)
# Seconds: from asking a process to end to ending it, and what is kept to write the archive.
_GRACE = 5.0
_RESERVE = 10.0
# With less than this, no slice starts.
_SHORTEST = 30.0
_TAIL_LINES = 25

State = dict[str, Any]


class Runner:
    """Runs slices in `folder` and keeps their state there.

    Args:
        key: what the results belong to; a state with another key is forgotten.
        archive: where the archive is written after each slice.
    """

    def __init__(self, root: Path, folder: Path, archive: Path, key: dict[str, str]) -> None:
        self.root, self.folder, self.archive = root, folder, archive
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "state.json"
        self.state: State = {"key": key, "slices": {}}
        if self.path.exists():
            before = json.loads(self.path.read_text())
            if before["key"] == key:
                self.state = before
            else:
                print("the sources or versions have changed: every slice is run again", flush=True)

    def status(self, name: str) -> str:
        return self.state["slices"].get(name, {}).get("status", "missing")

    def missing(self, known: Iterable[Slice]) -> list[Slice]:
        """Those that were never run, then those that did not pass."""
        left = [s for s in known if self.status(s.name) != "passed"]
        return sorted(left, key=lambda s: self.status(s.name) in ("failed", "timeout"))

    def run(self, chosen: Sequence[Slice], end: float | None = None) -> bool:
        """Runs slices until the monotonic time `end`; whether all passed or lack their tool."""
        for one in chosen:
            limit = one.limit
            if end is not None:
                left = end - time.monotonic() - _RESERVE
                limit = min(limit, left)
                if left < _SHORTEST:
                    print(f"{one.name:22} no time left", flush=True)
                    continue
            print(f"{one.name:22} {one.about}", flush=True)
            record = self._run(one, limit)
            self.state["slices"][one.name] = record
            self._save()
            gpu_archive.write(self.folder, self.archive)
            print(f"{'':22} {record['status']} in {record['seconds']:.0f} s", flush=True)
            if record["status"] in ("failed", "timeout"):
                self._print_tail(one.name)
        return all(self.status(one.name) in ("passed", "skipped") for one in chosen)

    def _save(self) -> None:
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps(self.state, indent=1) + "\n")
        unfinished.replace(self.path)

    def _print_tail(self, name: str) -> None:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        print(*(f"    {line}" for line in lines[-_TAIL_LINES:]), sep="\n", flush=True)

    def _run(self, one: Slice, limit: float) -> dict[str, Any]:
        out, start = self.folder / one.name, time.monotonic()
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        status, code = "passed", 0
        with (self.folder / f"{one.name}.log").open("w") as log:
            if one.tool is not None and shutil.which(one.tool) is None:
                log.write(f"{one.tool} is not here\n")
                status = "skipped"
            for command in one.commands if status == "passed" else ():
                words = [word.replace("{out}", str(out)) for word in command.words]
                settings = [f"{name}={value}" for name, value in command.environment.items()]
                log.write(f"$ {' '.join([*settings, *words])}\n")
                log.flush()
                environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.environment}
                left = limit - (time.monotonic() - start)
                code = _wait(words, self.root, environment, log, left)
                if code:
                    status = "timeout" if code == _TIMED_OUT else "failed"
                    log.write(f"\n{status}: exit status {code}, limit {limit:.0f} s\n")
                    break
        seconds = time.monotonic() - start
        return {"status": status, "seconds": round(seconds, 1), "exit": code, "limit": limit}


_TIMED_OUT = 124


def _wait(words: list[str], cwd: Path, environment: dict[str, str], log: Any, limit: float) -> int:
    """The exit status, 124 after `limit` seconds. The command's whole session ends with it."""
    try:
        process = subprocess.Popen(
            words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        log.write(f"{error}\n")
        return 127
    try:
        return process.wait(max(limit, 0.0))
    except subprocess.TimeoutExpired:
        return _TIMED_OUT
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, kind)
                process.wait(_GRACE)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def device() -> tuple[str, str]:
    """The first GPU's name and compute capability, such as "90"; ("", "") without one."""
    words = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    match = re.match(r"(.+), (\d+)\.(\d+)$", gpu_archive.output(words).partition("\n")[0])
    return (match[1], match[2] + match[3]) if match else ("", "")


def nvcc() -> str:
    import build_cuda

    return next(iter(build_cuda.nvcc_candidates()), "nvcc")


def commit() -> str:
    """Of the checkout; elsewhere EFFKERN_COMMIT, or the hash of the sources."""
    import build_plan

    known = build_plan.commit(ROOT) or os.environ.get("EFFKERN_COMMIT", "")[:12]
    return known or f"sources-{gpu_archive.sources_hash(ROOT)}"


def absent() -> list[str]:
    """Packages that are not installed."""
    return [name for name in REQUIRED if importlib.util.find_spec(name) is None]


def _key(gpu: str, dry_run: bool, compiler: str) -> dict[str, str]:
    driver = gpu_archive.output(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    )
    toolkit = re.search(r"V[\d.]+", gpu_archive.output([compiler, "--version"]))
    return {
        "sources": gpu_archive.sources_hash(ROOT),
        "device": "dry run" if dry_run else gpu,
        "driver": driver.strip() if gpu else "none",
        "nvcc": toolkit[0] if toolkit else "none",
        **gpu_archive.versions(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("slices", nargs="*", help="slices to run; all that are missing by default")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU")
    parser.add_argument("--list", action="store_true", help="print the slices and how they stand")
    parser.add_argument("--check", action="store_true", help="print the packages that are missing")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds for all slices together")
    parser.add_argument("--resume", type=Path, metavar="ARCHIVE", help="go on from this archive")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    started, parser = time.monotonic(), _parser()
    options = parser.parse_args(words)
    missing = absent()
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    if options.check:
        return int(bool(missing))
    (gpu, capability), compiler = device(), nvcc()
    if not (gpu or options.dry_run or options.list):
        parser.error("wanted a GPU, got none from nvidia-smi; --dry-run needs none")
    archs = os.environ.get("EFFKERN_CUDA_ARCHS") or capability
    known = {one.name: one for one in slices(options.dry_run, archs, compiler)}
    unknown = [name for name in options.slices if name not in known]
    if unknown:
        parser.error(f"wanted slices of {', '.join(known)}, got {', '.join(unknown)}")
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    name = f"gpu-{'dry-run' if options.dry_run or not gpu else slug}-{commit()}"
    folder = ROOT / "results" / name
    if options.resume:
        gpu_archive.read(options.resume, folder)
    archive = Path(os.environ.get("OUT") or ROOT / "results") / f"{name}.tar.gz"
    runner = Runner(ROOT, folder, archive, _key(gpu, options.dry_run, compiler))
    if options.list:
        for one in known.values():
            print(f"{one.name:22} {runner.status(one.name):8} {one.about}")
        return 0
    # Also when this process is asked to end, the slice it runs has to end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    commands = [
        *(["nvidia-smi"], ["nvidia-smi", "-q"], [compiler, "--version"], ["lscpu"]),
        [sys.executable, "-m", "effkern", "doctor"],
    ]
    (folder / "machine.txt").write_text(gpu_archive.facts(commands, ROOT))
    chosen = [known[name] for name in options.slices] or runner.missing(known.values())
    passed = runner.run(chosen, None if options.budget is None else started + options.budget)
    print(*(f"{name:22} {runner.status(name)}" for name in known), sep="\n")
    written = gpu_archive.write(folder, archive)
    print(f"wrote {written}, {written.stat().st_size >> 10} KiB")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
