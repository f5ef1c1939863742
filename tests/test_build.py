"""The build's decisions: which torch, which CUDA, which files, and what it says when it cannot."""

import os
import re
import subprocess
import sys
import tarfile
import time
import venv
from pathlib import Path

import build_cuda
import build_plan
import pytest
import torch

ROOT = Path(__file__).parents[1]
KNOWN = [75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121]
CPU_TORCH = build_plan.Torch(Path("/torch"), "2.11.0+cpu", None, None)
CUDA_TORCH = build_plan.Torch(Path("/torch"), "2.11.0+cu130", "13.0", None)


@pytest.fixture(autouse=True)
def no_build_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*build_plan.VARIABLES, "CUDA_HOME", "CUDA_PATH", "PYTHONPATH"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the build's requirements, but no torch."""
    root = tmp_path_factory.mktemp("bare")
    venv.create(root, with_pip=False, symlinks=True)
    site = next(root.glob("lib/python*/site-packages"))
    here = Path(torch.__file__).parents[1]
    for name in ("setuptools", "_distutils_hack", "packaging", "pybind11", "ninja"):
        (site / name).symlink_to(here / name)
    for metadata in here.glob("setuptools-*.dist-info"):
        (site / metadata.name).symlink_to(metadata)
    return root / "bin" / "python"


def fake_torch(folder: Path, version: str, cuda: str | None = None, hip: str | None = None) -> Path:
    """A torch as far as the build looks at it."""
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the build must not import torch')")
    (package / "version.py").write_text(
        f"__version__ = {version!r}\ncuda = {cuda!r}\nhip = {hip!r}"
    )
    return package


def fake_nvcc(folder: Path, release: str) -> Path:
    """An nvcc that answers the questions the build asks, and compiles nothing."""
    lib = folder / "lib64"
    lib.mkdir(parents=True)
    (lib / "libcudart_static.a").touch()
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    listing = "\\n".join(f"compute_{arch}" for arch in KNOWN)
    nvcc.write_text(f"""#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.1";;
  --list-gpu-arch) printf '{listing}\\n';;
  --dryrun) echo '#$ TOP={folder}' >&2;;
esac
""")
    nvcc.chmod(0o755)
    return nvcc


def setup_py(*arguments: str, python: Path | str = sys.executable, **env: str):
    """Runs setup.py, which must end within ten seconds."""
    return subprocess.run(
        [str(python), "setup.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=10,
    )


# Without a usable torch


@pytest.mark.parametrize("command", ["dist_info", "bdist_wheel", "editable_wheel", "build_ext"])
def test_without_torch_the_build_names_the_command_to_run(bare_python: Path, command: str) -> None:
    start = time.monotonic()
    done = setup_py(command, python=bare_python)
    assert done.returncode != 0
    assert time.monotonic() - start < 5
    assert f"{bare_python} -m pip install 'torch>=2.11'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("builds-v0/.tmpa", "uv pip install --no-build-isolation"),
        ("build-env-b", "build --no-isolation"),
    ],
)
def test_a_front_end_that_hides_torch_is_told_apart(
    folder: str, command: str, bare_python: Path, tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    python = tmp_path / folder / "python"
    python.write_text(f'#!/bin/sh\nexec {bare_python} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(SystemExit, match=command):
        build_plan.find_torch(str(python))


def test_too_old_torch_names_the_command_to_run(bare_python: Path, tmp_path: Path) -> None:
    fake_torch(tmp_path, "2.10.1+cu128")
    done = setup_py("dist_info", python=bare_python, PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "torch 2.10.1+cu128 is too old" in done.stderr
    assert "pip install --upgrade 'torch>=2.11'" in done.stderr


def test_old_setuptools_names_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setuptools.__version__", "68.1.2")
    with pytest.raises(SystemExit, match="pip install --upgrade 'setuptools>=77'"):
        build_plan.check_setuptools()


def test_without_pybind11_and_ninja_the_build_names_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install pybind11 ninja"):
        build_plan.check_compile_tools()


# Finding torch


def test_finds_the_torch_of_this_environment() -> None:
    found = build_plan.find_torch()
    assert found.version == torch.__version__
    assert found.cuda == torch.version.cuda
    assert found.root == Path(torch.__file__).parent


@pytest.mark.parametrize("where", ["PYTHONPATH", "site-packages", "user site-packages"])
def test_finds_torch_in_each_place(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "environment"
    # Only an environment with the system's packages has the user's, too.
    venv.create(environment, with_pip=False, symlinks=True, system_site_packages=True)
    site = next(environment.glob("lib/python*/site-packages"))
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
    user_site = tmp_path / "user" / site.relative_to(environment)
    folder = {
        "PYTHONPATH": tmp_path / "path",
        "site-packages": site,
        "user site-packages": user_site,
    }[where]
    expected = fake_torch(folder, "2.12.0", cuda="13.0")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # pip's isolation puts its own modules first on the path; this one stands for them.
    (hidden / "torch.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(folder if where == "PYTHONPATH" else hidden))
    found = build_plan.find_torch(str(environment / "bin" / "python"))
    assert found == build_plan.Torch(expected, "2.12.0", "13.0", None)


# Variables


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EFFKERN_BUILD_CUDA", "yes", "EFFKERN_BUILD_CUDA must be one of auto, 1, 0; got 'yes'"),
        ("EFFKERN_BUILD_EMULATION", "2", "EFFKERN_BUILD_EMULATION must be one of 0, 1; got '2'"),
        ("EFFKERN_BUILD_CUDDA", "1", "EFFKERN_BUILD_CUDDA is not a build variable"),
        ("EFFKERN_CUDA_ARCH", "80", "EFFKERN_CUDA_ARCHS: for example"),
    ],
)
def test_a_bad_variable_ends_the_build(name: str, value: str, message: str) -> None:
    done = setup_py("--version", **{name: value})
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_emulator_is_built_in_a_checkout_only() -> None:
    done = setup_py("build_ext", EFFKERN_BUILD_EMULATION="1")
    assert done.returncode != 0
    assert "EFFKERN_BUILD_EMULATION=1 is for checkouts (--inplace), not for wheels" in done.stderr


# Finding CUDA


def test_cuda_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFKERN_BUILD_CUDA", "0")
    assert build_cuda.find_cuda(CUDA_TORCH) == build_cuda.Cuda(reason="EFFKERN_BUILD_CUDA=0")


@pytest.mark.parametrize("torch_", [CPU_TORCH, CUDA_TORCH])
def test_without_nvcc_auto_builds_for_the_cpu_and_says_why(
    torch_: build_plan.Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_cuda.shutil, "which", lambda name, path=None: None)
    cuda = build_cuda.find_cuda(torch_)
    assert cuda.nvcc == "" and cuda.gencode == []
    assert cuda.reason.startswith("no nvcc in EFFKERN_NVCC, CUDA_HOME")


def test_without_nvcc_required_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_cuda.shutil, "which", lambda name, path=None: None)
    monkeypatch.setenv("EFFKERN_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match=r"Install the CUDA toolkit 13\.x"):
        build_cuda.find_cuda(CUDA_TORCH)


def test_a_chosen_nvcc_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFKERN_NVCC", str(tmp_path))
    with pytest.raises(SystemExit, match="EFFKERN_NVCC must be an executable file; got"):
        build_cuda.find_cuda(CPU_TORCH)


@pytest.mark.parametrize("variable", ["EFFKERN_NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"])
def test_finds_nvcc(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = fake_nvcc(tmp_path / "cuda", "13.0")
    value = {"EFFKERN_NVCC": nvcc, "PATH": f"{nvcc.parent}:{os.environ['PATH']}"}
    monkeypatch.setenv(variable, str(value.get(variable, tmp_path / "cuda")))
    cuda = build_cuda.find_cuda(CUDA_TORCH)
    assert cuda.nvcc == str(nvcc)
    assert cuda.version == (13, 0)
    assert cuda.library_dirs == (str(tmp_path / "cuda" / "lib64"),)


@pytest.mark.parametrize("release", ["12.8", "13.2"])
def test_torch_without_cuda_takes_any_nvcc(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFKERN_NVCC", str(fake_nvcc(tmp_path / "cuda", release)))
    assert build_cuda.find_cuda(CPU_TORCH).version == tuple(map(int, release.split(".")))


def test_cuda_minor_versions_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFKERN_NVCC", str(fake_nvcc(tmp_path / "cuda", "13.2")))
    assert build_cuda.find_cuda(CUDA_TORCH).version == (13, 2)


def test_cuda_major_versions_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFKERN_NVCC", str(fake_nvcc(tmp_path / "cuda", "12.8")))
    with pytest.raises(
        SystemExit, match=r"for CUDA 13\.0, but the only nvcc is \S+ \(CUDA 12\.8\)"
    ):
        build_cuda.find_cuda(CUDA_TORCH)


def test_skips_an_nvcc_of_another_major(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvcc(tmp_path / "old", "12.8")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("CUDA_PATH", str(fake_nvcc(tmp_path / "new", "13.0").parents[1]))
    assert build_cuda.find_cuda(CUDA_TORCH).nvcc == str(tmp_path / "new" / "bin" / "nvcc")


def test_rocm_gets_no_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    rocm = build_plan.Torch(Path("/torch"), "2.11.0+rocm7", None, "7.0")
    assert "ROCm" in build_cuda.find_cuda(rocm).reason
    monkeypatch.setenv("EFFKERN_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match="ROCm"):
        build_cuda.find_cuda(rocm)


# Architectures


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ["sm_80"]),
        ("8.0;9.0+PTX", ["sm_80", "sm_90", "compute_90"]),
        ("sm_80, 90a", ["sm_80", "sm_90a"]),
        ("compute_75 80 80", ["compute_75", "sm_80"]),
        ("12.0+PTX", ["sm_120", "compute_120"]),
    ],
)
def test_parse_archs(text: str, expected: list[str]) -> None:
    assert build_cuda.parse_archs(text, KNOWN) == expected


@pytest.mark.parametrize("text", ["hopper", "70", "300", "compute_80+PTX", "8", " ; "])
def test_bad_archs_end_the_build(text: str) -> None:
    with pytest.raises(SystemExit, match="EFFKERN_CUDA_ARCHS"):
        build_cuda.parse_archs(text, KNOWN)


@pytest.mark.parametrize("known", [[50, 70, 75, 80, 86, 90], KNOWN, [75, 80, 90, 130, 131]])
def test_the_default_architectures_run_on_every_gpu(known: list[int]) -> None:
    archs = build_cuda.parse_archs(build_cuda.default_archs(known), known)
    real = {int(arch[3:]) for arch in archs if arch.startswith("sm_")}
    ptx = {int(arch[8:]) for arch in archs if arch.startswith("compute_")}
    assert {80, 90} <= real
    for gpu in [75, 80, 86, 89, 90, 100, 103, 120, 121, 140]:
        same_major = {arch for arch in real if arch // 10 == gpu // 10 and arch <= gpu}
        assert same_major or any(arch <= gpu for arch in ptx), gpu


def test_gencode() -> None:
    cuda = build_cuda.Cuda(archs=("sm_90a", "compute_90"))
    assert cuda.gencode == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]


# Files and facts


def test_every_source_is_compiled_once_with_the_flags_of_its_suffix(tmp_path: Path) -> None:
    names = ["module.cpp", "a/a_op.cpp", "a/a_plan.cpp", "a/a_cpu.cpp", "a/a_cpu_avx2.cpp"]
    names += ["common/isa.cpp", "a/a_cpu_baseline.cpp", "a/a_cpu_avx512.cpp", "a/a_cuda.cu"]
    for name in [*names, "a/a_emu.cpp", "emulation/run.cpp", "a/a.h", "a/a_kernel.cuh"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def roles(machine: str, with_cuda: bool) -> dict[str, str]:
        sources = build_plan.find_sources(tmp_path, machine, with_cuda)
        return {str(source.path.relative_to(tmp_path)): source.role for source in sources}

    everything = roles("x86_64", True)
    assert sorted(everything) == sorted(names)
    assert everything["a/a_op.cpp"] == "op"
    assert everything["a/a_plan.cpp"] == everything["common/isa.cpp"] == "shared"
    assert everything["a/a_cpu_avx2.cpp"] == everything["a/a_cpu_baseline.cpp"] == "isa"
    assert set(names) - set(roles("x86_64", False)) == {"a/a_cuda.cu"}
    x86 = {"a/a_cpu_avx2.cpp", "a/a_cpu_avx512.cpp"}
    assert set(names) - set(roles("aarch64", True)) == x86
    flags = {
        source.path.stem: source.flags
        for source in build_plan.find_sources(tmp_path, "x86_64", False)
    }
    assert "-mavx2" in flags["a_cpu_avx2"] and "-mavx512f" in flags["a_cpu_avx512"]
    assert not any(flag.startswith("-m") for flag in flags["a_cpu_baseline"] + flags["a_op"])


def test_an_unknown_instruction_set_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "a_cpu_sse9.cpp").touch()
    with pytest.raises(SystemExit, match="names no instruction set of baseline, avx2, avx512"):
        build_plan.find_sources(tmp_path, "x86_64", False)


def test_the_facts_are_rewritten_only_when_they_change(tmp_path: Path) -> None:
    header = tmp_path / "facts.h"
    build_plan.write_facts({"VERSION": 'a"b\\c'}, header)
    assert header.read_text() == '#pragma once\n#define EFFKERN_VERSION "a\\"b\\\\c"\n'
    os.utime(header, (1, 1))
    build_plan.write_facts({"VERSION": 'a"b\\c'}, header)
    assert header.stat().st_mtime == 1
    build_plan.write_facts({"VERSION": "2"}, header)
    assert header.stat().st_mtime > 1


def test_the_commit_of_a_folder_inside_a_foreign_checkout_is_unknown(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "effkern-0.1.0").mkdir()
    assert build_plan.commit(tmp_path / "effkern-0.1.0") == ""


# The version of torch, and the package


def test_the_target_is_what_torch_calls_it_and_what_the_package_requires() -> None:
    header = Path(torch.__file__).parent / "include/torch/csrc/stable/version.h"
    name = f"TORCH_VERSION_{build_plan.TORCH_TARGET_TEXT.replace('.', '_')}_0"
    digits = re.search(
        rf"#define {name} \(\(\(0ULL \+ (\d+)\).*\(\(0ULL \+ (\d+)\)", header.read_text()
    )
    assert digits is not None
    major, minor = int(digits[1]), int(digits[2])
    assert build_plan.TORCH_TARGET_VERSION == major << 56 | minor << 48
    text = (ROOT / "pyproject.toml").read_text()
    assert f'dependencies = ["torch>={build_plan.TORCH_TARGET_TEXT}"]' in text


def test_torch_is_no_build_requirement() -> None:
    table = (ROOT / "pyproject.toml").read_text().split("[project]")[0]
    requires = re.search(r"^requires = \[(.*)\]$", table, re.MULTILINE)
    assert requires is not None and "torch" not in requires[1]


def test_the_sdist_is_made_without_torch_and_holds_every_source(
    bare_python: Path, tmp_path: Path
) -> None:
    done = setup_py(
        "-q", "egg_info", "-e", str(tmp_path), "sdist", "-d", str(tmp_path), python=bare_python
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for pattern in ("csrc/**/*.*", "triton_kernels/**/*.py", "effkern/**/*.py", "tools/*.py"):
        wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
        assert wanted and wanted <= held
    wanted = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "effkern/py.typed"}
    assert wanted <= held
    assert not any(name.endswith((".so", ".o", ".pyc")) for name in held)
