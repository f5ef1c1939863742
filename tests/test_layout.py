"""The layout: the op's name is the folder, the role is the suffix, in every tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
if not CSRC.is_dir():
    pytest.skip("the sources are not here", allow_module_level=True)

# Operators that are made of others, or that others are made of: they have no kernels of their own
# for every backend, and pointwise is not public.
PARTS = ("mbconv", "pointwise")
FOLDERS = sorted(path.name for path in CSRC.iterdir() if path.is_dir())
OPS = [name for name in FOLDERS if name not in ("common", "emulation", *PARTS)]
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp", ".cuh", ".cu"})
SKIPPED = {".venv", "build", "results", "__pycache__", ".git"}

# Lines that stay pleasant; the first pattern that fits a file counts. A quarter more is too much.
LIMITS = (
    (r"setup\.py", 150),
    (r"csrc/\w+/\w+_(op|cuda_op|emu|torch|arguments)\.cpp", 250),
    (r"csrc/.*\.(h|cpp|cuh|cu)", 400),
    (r"effkern/nn/\w+_sources\.py", 150),
    (r"effkern/nn/\w+\.py", 80),
    (r"effkern/.*\.py", 300),
    (r"triton_kernels/.*\.py", 400),
    (r"tests/.*\.py", 500),
    (r"benchmarks/.*\.py", 150),
    (r"(tools|examples)/.*\.py", 300),
)
# Imported where they are used: effkern alone needs none of them.
OPTIONAL = {"timm", "torchvision", "transformers", "matplotlib", "pandas", "rich", "triton"}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def python_files(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not SKIPPED & set(path.relative_to(ROOT).parts):
                yield path


def exists(pattern):
    return any(ROOT.glob(pattern))


def test_there_is_an_op():
    assert "depthwise_conv2d" in OPS


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "role",
    (
        "csrc/{op}/{op}.h",
        "csrc/{op}/{op}_plan.cpp",
        "csrc/{op}/{op}_op.cpp",
        "effkern/reference/{op}.py",
        "effkern/testing/{op}.py",
        "tests/ops/test_{op}.py",
        "docs/ops/{op}.md",
        "docs/notes/{op}.md",
    ),
)
def test_every_tree_has_the_op(op, role):
    assert exists(role.format(op=op))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "role",
    (
        "csrc/{op}/{op}*_op.cpp",
        "effkern/ops/{op}/__init__.py",
        "tests/ops/test_{op}.py",
        "docs/notes/{op}.md",
    ),
)
def test_every_tree_has_the_part(part, role):
    assert exists(role.format(op=part))


ROLES = {
    "cpu": ("csrc/{op}/{op}_cpu.cpp",),
    "cuda": (
        "csrc/{op}/{op}_*kernel.cuh",
        "csrc/{op}/{op}_launch.cuh",
        "csrc/{op}/{op}_cuda.cu",
    ),
    "triton": (
        "triton_kernels/{op}/kernel.py",
        "triton_kernels/{op}/launch.py",
        "triton_kernels/{op}/configs.py",
    ),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ROLES)
def test_every_role_of_a_backend(op, name):
    for role in ROLES[name]:
        assert exists(role.format(op=op)), role.format(op=op)


@pytest.mark.parametrize("op", OPS)
def test_python_side_of_the_op(op):
    assert exists(f"effkern/ops/{op}.py") != exists(f"effkern/ops/{op}/__init__.py")
    functional = (ROOT / "effkern/functional.py").read_text()
    assert re.search(rf"^from \.ops\.{op} import .*\b{op}\b", functional, re.MULTILINE)
    assert any(op in path.read_text() for path in python_files("benchmarks"))


@pytest.mark.parametrize("op", [*OPS, *PARTS])
def test_files_of_an_op_carry_its_name(op):
    for path in (CSRC / op).iterdir():
        assert path.name.startswith(op), relative(path)


@pytest.mark.parametrize("op", [*OPS, *PARTS])
def test_table_of_csrc_names_every_file(op):
    table = (CSRC / "README.md").read_text()
    named = {path.stem for path in (CSRC / op).iterdir() if f"`{relative(path)}`" in table}
    # A header beside its source is found with it.
    missing = [path.name for path in sorted((CSRC / op).iterdir()) if path.stem not in named]
    assert not missing


def test_table_of_csrc_names_no_file_that_is_gone():
    paths = re.findall(r"`([\w.]+/[\w./]+)`", (CSRC / "README.md").read_text())
    paths = [path for path in paths if path.split("/")[0] != "torch"]
    assert paths
    for path in paths:
        assert (ROOT / path).exists() or (CSRC / path).exists(), path


def test_sizes_stay_pleasant():
    too_long = []
    folders = ("effkern", "triton_kernels", "tests", "benchmarks", "tools", "examples")
    for path in (ROOT / "setup.py", *SOURCES, *python_files(*folders)):
        name, lines = relative(path), len(path.read_text().splitlines())
        limit = next((limit for pattern, limit in LIMITS if re.fullmatch(pattern, name)), None)
        assert limit is not None, f"{name} has no limit"
        if lines > 1.25 * limit:
            too_long.append(f"{name}: {lines} lines, {limit} are pleasant")
    assert not too_long, "\n".join(too_long)


@pytest.mark.parametrize("path", list(python_files("effkern")), ids=relative)
def test_optional_packages_are_not_imported_at_the_top(path):
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            assert name.split(".")[0] not in OPTIONAL, f"line {node.lineno}"


def test_import_needs_nothing_but_torch():
    # What torch imports by itself is not effkern's doing.
    code = (
        "import sys, torch; before = set(sys.modules); import effkern;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    imported = set(finished.stdout.split())
    assert "effkern" in imported
    assert not imported & OPTIONAL


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_torch_stays_at_the_operators(path):
    # Problem, plan, kernel and launch know no torch; the operator and what it is made of do.
    text = path.read_text()
    if re.search(r"#include\s*[<\"](torch|ATen|c10)/", text):
        name = path.name
        at_operator = re.search(r"_(op|cuda_op|emu|torch|arguments|schema)\.(h|cpp)$", name)
        assert path.parent.name == "common" or at_operator, relative(path)
        assert path.suffix not in {".cu", ".cuh"}, relative(path)
