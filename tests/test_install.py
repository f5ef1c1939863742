"""Real installations, into environments of their own, from the sdist's files alone."""

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow_build

# The installation is tested here, not the kernels: one real architecture, nothing optimised.
FAST = {
    "CXXFLAGS": "-O0 -w",
    "EFFKERN_CUDA_ARCHS": "90",
    "NVCC_APPEND_FLAGS": "-Xcicc -O0 -Xptxas -O0",
}

# Run from an empty folder: the package that is imported must be the one that was installed.
CHECK = """
import sys, torch, effkern, effkern._C, effkern.triton_kernels
assert effkern.__file__.startswith(sys.argv[1]), effkern.__file__
assert effkern.backends()["cpu"] is True, effkern.backends()
assert effkern._C.build_info()["version"] == effkern.__version__
x, w = torch.randn(2, 8, 9, 9), torch.randn(8, 1, 3, 3)
with effkern.backend("cpu"):
    y = effkern.functional.depthwise_conv2d(x, w, padding=1)
torch.testing.assert_close(y, torch.nn.functional.conv2d(x, w, padding=1, groups=8))
"""


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    # PYTHONPATH would hide what was installed.
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **env}, capture_output=True, text=True
    )


class Environment:
    """A new virtual environment; with torch, it also sees the packages of the one running this."""

    def __init__(self, root: Path, with_torch: bool = True) -> None:
        venv.create(root, with_pip=True, symlinks=True)
        self.python = root / "bin" / "python"
        self.site = next(root.glob("lib/python*/site-packages"))
        self.empty = root / "empty"
        self.empty.mkdir()
        if with_torch:
            (self.site / "torch.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")

    def install(self, *arguments: str | Path, cwd: Path, **env: str) -> None:
        done = run(self.python, "-m", "pip", "install", *arguments, cwd=cwd, **env)
        assert done.returncode == 0, done.stdout + done.stderr

    def check(self, where: Path) -> None:
        done = run(self.python, "-c", CHECK, where, cwd=self.empty)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder]
    done = run(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def source(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, in a path with a space, where the installations share their objects."""
    folder = tmp_path_factory.mktemp("a space")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    return next(folder.iterdir())


# What isolation changes (the build's requirements) and what an editable installation changes (where
# files end) do not meet: two of the four combinations show all of it.
@pytest.mark.parametrize(
    ("isolation", "editable"),
    [([], []), (["--no-build-isolation"], ["-e"])],
    ids=["isolated-copy", "shared-editable"],
)
def test_install_from_a_folder(
    isolation: list[str], editable: list[str], source: Path, tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "env")
    if isolation:
        # What an older Python puts into a new environment is too old.
        environment.install("setuptools>=77", "packaging>=24.2", cwd=source)
    # The CUDA kernels take most of a build and depend on neither: once is enough.
    cuda = {"EFFKERN_BUILD_CUDA": "0"} if editable else {}
    environment.install(*isolation, *editable, ".", cwd=source, **FAST, **cuda)
    environment.check(source if editable else environment.site)


def test_install_from_the_sdist(sdist: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    environment.install(sdist, cwd=tmp_path, EFFKERN_BUILD_CUDA="0", **FAST)
    environment.check(environment.site)


def test_install_without_torch_fails_before_anything_is_downloaded(
    source: Path, tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "env", with_torch=False)
    done = run(environment.python, "-m", "pip", "install", ".", cwd=source)
    assert done.returncode != 0
    assert f"{environment.python} -m pip install 'torch>=2.11'" in done.stdout + done.stderr
    # The build's own requirements are fetched by then; torch and its dependencies are not.
    assert "nvidia" not in done.stdout and "torch-" not in done.stdout
