"""What a GPU run leaves behind: the key of its state, facts of the machine, one small archive."""

import hashlib
import importlib.metadata
import io
import os
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_SOURCES = ("csrc", "effkern", "triton_kernels", "tests", "benchmarks", "tools")
_SOURCE_SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".csv", ".pyi"}
# What is kept, and bytes: of a log its first and last part, of another file all or nothing.
_KEPT_SUFFIXES = {".log", ".xml", ".json", ".txt", ".md", ".png", ".csv"}
_LOG_PART = 256 << 10
_MOST_OF_A_FILE = 4 << 20
_MOST = 24 << 20
_PACKAGES = ("torch", "triton", "numpy", "pytest", "pytest-xdist", "pybind11", "ninja", "timm")


def output(words: Sequence[str], cwd: Path | None = None) -> str:
    """What a program prints, standard error too; why it did not run, if so."""
    try:
        done = subprocess.run(
            words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}\n"
    return done.stdout


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def sources_hash(root: Path) -> str:
    """Of everything that the slices run, whatever git says."""
    digest = hashlib.sha256()
    paths = [root / "setup.py", root / "pyproject.toml"]
    for folder in _SOURCES:
        found = (p for p in (root / folder).rglob("*") if p.suffix in _SOURCE_SUFFIXES)
        paths += sorted(found)
    for path in paths:
        if path.is_file():
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def facts(commands: Iterable[Sequence[str]], cwd: Path) -> str:
    """What the commands print, under their names."""
    return "".join(f"$ {' '.join(words)}\n{output(words, cwd)}\n" for words in commands)


def _shortened(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".log" or len(data) <= 2 * _LOG_PART:
        return data
    left_out = f"\n[... {len(data) - 2 * _LOG_PART} bytes left out ...]\n".encode()
    return data[:_LOG_PART] + left_out + data[-_LOG_PART:]


def _members(folder: Path) -> Iterator[tuple[str, bytes]]:
    total = 0
    left_out = []
    # The state first, then the small ones: a large one never keeps the others out.
    paths = [p for p in folder.rglob("*") if p.is_file() and p.suffix in _KEPT_SUFFIXES]
    for path in sorted(paths, key=lambda p: (p.name != "state.json", p.stat().st_size)):
        data, name = _shortened(path), str(path.relative_to(folder))
        if len(data) > _MOST_OF_A_FILE or total + len(data) > _MOST:
            left_out.append(f"{name}: {len(data)} bytes\n")
            continue
        total += len(data)
        yield name, data
    if left_out:
        yield "left-out.txt", "".join(left_out).encode()


def write(folder: Path, target: Path) -> Path:
    """Packs `folder` into `target`, a .tar.gz; returns it. An interrupted call changes nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    with tarfile.open(unfinished, "w:gz") as archive:
        for name, data in _members(folder):
            member = tarfile.TarInfo(f"{folder.name}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    unfinished.replace(target)
    return target


def read(source: Path, folder: Path) -> None:
    """Unpacks an archive into `folder`, whatever the folder was called when it was packed."""
    with tarfile.open(source) as archive:
        for member in archive.getmembers():
            parts = Path(member.name).parts[1:]
            data = archive.extractfile(member)
            if data is None or not parts or ".." in parts:
                continue
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read())
