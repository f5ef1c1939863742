"""The library depends on the stable ABI of the target torch, and on nothing newer or private."""

import subprocess
from pathlib import Path

import abi_symbols
import pytest
import torch

import effkern

PACKAGE = Path(effkern.__file__).parent
LIBRARY = PACKAGE / "libeffkern_ops.so"
INCLUDE = Path(torch.__file__).parent / "include"


def needed(library: Path) -> list[str]:
    listing = subprocess.run(
        ["readelf", "--dynamic", "--wide", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "RPATH" not in listing and "RUNPATH" not in listing
    return [line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]


def build(folder: Path, code: str) -> Path:
    """A shared library from a line of C."""
    library = folder / "lib.so"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=code, text=True, check=True)
    return library


def test_the_library_keeps_to_the_stable_abi() -> None:
    report = abi_symbols.check(LIBRARY, INCLUDE)
    assert report.faults == []
    # Were this empty, the checker would look at the wrong thing.
    assert "torch_library_impl" in report.functions


def test_the_library_needs_no_python_and_no_cuda_runtime() -> None:
    names = [name.split(".so")[0] for name in needed(LIBRARY)]
    assert "libtorch" in names and "libtorch_cpu" in names
    assert not [name for name in names if "python" in name or "cuda" in name]


def test_the_planner_needs_no_torch() -> None:
    (module,) = PACKAGE.glob("_C.*.so")
    assert not [name for name in needed(module) if "torch" in name or "c10" in name]
    assert not [name for name in abi_symbols.undefined_symbols(module) if "torch" in name]


def test_no_file_holds_a_path_of_the_machine_it_was_built_on() -> None:
    root = str(PACKAGE.parent).encode()
    for library in (LIBRARY, *PACKAGE.glob("_C.*.so")):
        assert root + b"/csrc" not in library.read_bytes()


@pytest.mark.parametrize(
    ("symbol", "fault"),
    [
        ("_ZN2at5emptyEv", "a C++ symbol of torch"),
        ("_ZNK3c104Type3strEv", "a C++ symbol of torch"),
        ("_ZTVN3c105ErrorE", "a C++ symbol of torch"),
        ("PyLong_FromLong", "a symbol of Python"),
        ("_Py_Dealloc", "a symbol of Python"),
        ("aoti_torch_from_the_future", "not in the shim headers"),
    ],
)
def test_the_checker_finds_a_fault(symbol: str, fault: str, tmp_path: Path) -> None:
    library = build(tmp_path, f"void {symbol}(void); void f(void) {{ {symbol}(); }}")
    (found,) = abi_symbols.check(library, INCLUDE).faults
    assert found.startswith(symbol) and fault in found


def test_the_checker_finds_a_function_newer_than_the_target(tmp_path: Path) -> None:
    newest = max(abi_symbols.shim_versions(INCLUDE).items(), key=lambda item: item[1])
    name, (major, minor) = newest
    library = build(tmp_path, f"void {name}(void); void f(void) {{ {name}(); }}")
    assert abi_symbols.check(library, INCLUDE, target=(major, minor)).faults == []
    (found,) = abi_symbols.check(library, INCLUDE, target=(major, minor - 1)).faults
    assert f"appeared in torch {major}.{minor}" in found


def test_the_checker_lets_weak_references_pass(tmp_path: Path) -> None:
    code = (
        "__attribute__((weak)) void torch_new(void); void f(void) { if (torch_new) torch_new(); }"
    )
    report = abi_symbols.check(build(tmp_path, code), INCLUDE)
    assert report.weak.count("torch_new") == 1 and report.faults == []
