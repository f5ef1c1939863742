"""Runners: programs without torch that run kernels on the emulator."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import build_cuda
import pytest

# The plain build also tells of races by itself; the sanitizers' tests are about the sanitizers.
NO_RACE_CHECK = {"EFFKERN_EMULATION_NO_RACE_CHECK": "1"}
ROOT = Path(__file__).resolve().parents[2]

if not (ROOT / "csrc").is_dir():
    pytest.skip("the sources are not here", allow_module_level=True)


class Runner:
    """A built runner; calling it gives its output and whether it ended well."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *arguments: str, **environment: str) -> tuple[bool, str]:
        sanitizers = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66"}
        done = subprocess.run(
            [self.path, *arguments],
            env=os.environ | sanitizers | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=900,
            check=False,
        )
        return done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def build_runner():
    """Builds a runner and returns it; built ones are kept in build/ between runs."""
    import build_emulation

    if not build_cuda.nvcc_candidates():
        if "cuda_emulated" in os.environ.get("EFFKERN_REQUIRE_BACKENDS", ""):
            pytest.fail("cuda_emulated is required, but there is no CUDA toolkit")
        pytest.skip("no CUDA toolkit, whose headers the emulator needs")
    return lambda *arguments: Runner(build_emulation.build_runner(*arguments))
