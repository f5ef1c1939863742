"""The native library: loaded once; a failure is kept, explained, and does no harm."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import effkern
from effkern import _library

PACKAGE = Path(effkern.__file__).parent
native = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

CALL = """
import warnings
import torch
{before}
with warnings.catch_warnings(record=True) as at_import:
    warnings.simplefilter("always")
    import effkern
assert not [w for w in at_import if "effkern" in str(w.message)], at_import

input, weight = torch.randn(1, 4, 5, 6, requires_grad=True), torch.randn(4, 1, 3, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        output = effkern.functional.depthwise_conv2d(input, weight, padding=1, activation="relu")
        output.sum().backward()
        layer = effkern.DepthwiseConv2d(4, 4, 3)(input)
assert torch.equal(output, torch.conv2d(input, weight, padding=1, groups=4).relu())
caught = [str(w.message) for w in caught if "effkern" in str(w.message)]
assert len(caught) == 1, caught
print(caught[0])

assert effkern.backends()["auto"] is True and effkern.backends()["torch"] is True
print(effkern.backends()["cpu"])
with effkern.backend("torch"):
    effkern.functional.depthwise_conv2d(input, weight)
try:
    with effkern.backend("cpu"):
        effkern.functional.depthwise_conv2d(input, weight)
except RuntimeError as error:
    print(error)
"""


@pytest.fixture
def copy_of_package(tmp_path):
    """The package without its native library."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "effkern", ignore=ignored)
    return tmp_path / "effkern"


def run(code, package):
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"}
    environment.pop("EFFKERN_BACKEND", None)
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def assert_explained(lines, *reasons):
    """The warning, the state of backend cpu and the error of a call by name all give the reason."""
    warning, state, error = lines
    for text in (warning, state, error):
        assert all(reason in text for reason in reasons), text
    assert "torch's convolutions" in warning
    assert error.startswith(
        "effkern.depthwise_conv2d: backend: wanted one that can run this call, got 'cpu'"
    )


def test_missing_library(copy_of_package):
    lines = run(CALL.format(before=""), copy_of_package)
    assert_explained(lines, "libeffkern_ops.so", "does not exist", "pip install")


def test_broken_library(copy_of_package):
    (copy_of_package / "libeffkern_ops.so").write_bytes(b"no library")
    lines = run(CALL.format(before=""), copy_of_package)
    reasons = ("libeffkern_ops.so", torch.__version__, "reinstall effkern", "file too short")
    assert_explained(lines, *reasons)


@native
@pytest.mark.parametrize("platform", ("darwin", "win32"))
def test_other_platforms(copy_of_package, platform):
    shutil.copy(PACKAGE / "libeffkern_ops.so", copy_of_package)
    before = f"import sys; sys.platform = {platform!r}"
    lines = run(CALL.format(before=before), copy_of_package)
    assert_explained(lines, platform, "Linux")


@native
def test_reload_does_not_load_twice():
    reloaded = importlib.reload(_library)
    assert reloaded.load_error() is None and reloaded.available()
    output = effkern.functional.depthwise_conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
    assert output.item() == 9


@native
def test_a_second_copy_is_refused(copy_of_package):
    shutil.copy(PACKAGE / "libeffkern_ops.so", copy_of_package)
    # Loading it would crash: the operators are registered already.
    before = f"torch.ops.load_library({str(PACKAGE / 'libeffkern_ops.so')!r})"
    assert_explained(run(CALL.format(before=before), copy_of_package), "another copy")


@native
def test_import_says_nothing():
    code = "import effkern; assert effkern.backends()['cpu'] is True"
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
