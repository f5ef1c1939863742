"""What tools/gpu.py runs: slices of work, the most important first.

With a GPU they use the backends cuda and triton; in a dry run the same command lines use
cuda_emulated and triton_interpreted, with a small part of the tests and short benchmarks.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Of a slice that runs on its own, seconds; a job of ten minutes then still has time to end.
LIMIT = 540
# A few tests are enough to see that the command works. Those interpreted are few to begin with.
_DRY_PARTS = {"cuda_emulated": 400, "triton_interpreted": 60}
# Most wanted first: where a lease ends, what is left is missing.
MICRO = (
    *(("bfloat16", 32), ("float32", 32), ("bfloat16", 1), ("bfloat16", 256), ("float16", 32)),
    *(("float32", 1), ("float16", 1), ("float32", 256), ("float16", 256)),
)
_OPERATOR = ("tests/ops", "tests/nn")
# The rest, without what needs no GPU or an hour.
_PACKAGE = (
    "tests",
    *(f"--ignore=tests/{name}" for name in ("ops", "nn", "triton", "emulation", "compile")),
    *("-m", "not slow_build"),
)


@dataclass(frozen=True)
class Command:
    """A command line, and what it changes in the environment. {out} stands for the slice's folder,
    which is empty at the start."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Commands that run one after the other; the first that fails ends the slice.

    Attributes:
        tool: a program without which it is left out; None if it needs nothing special.
        limit: seconds that all commands may take.
    """

    name: str
    about: str
    commands: tuple[Command, ...]
    tool: str | None = None
    limit: float = LIMIT


def _python(*words: str, **environment: str) -> Command:
    return Command((sys.executable, *words), environment)


def _tests(
    name: str, backend: str, part: int, parts: int, words: Sequence[str], dry: bool
) -> Slice:
    """Tests on one backend: every `parts`-th of them."""
    environment = {
        "EFFKERN_REQUIRE_BACKENDS": backend,
        # Where gpu_shard.py is, and what the caller has brought along.
        "PYTHONPATH": os.pathsep.join(["tools", *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1" if dry else "2",
    }
    if backend == "triton_interpreted":
        environment["TRITON_INTERPRET"] = "1"
    words = ["-m", "pytest", *words, "--backend", backend, "-p", "gpu_shard"]
    words += ["--shard", f"{part}/{_DRY_PARTS.get(backend, parts)}", "-q", "--tb=short"]
    words += ["--maxfail=100", "--junitxml={out}/junit.xml", "-p", "no:cacheprovider"]
    if not dry and importlib.util.find_spec("xdist"):
        words += ["-n", str(min(8, os.cpu_count() or 1))]
    return Slice(name, f"part {part} of {parts}, {backend}", (_python(*words, **environment),))


def _build(dry: bool, archs: str) -> Slice:
    if dry:
        build = _python("setup.py", "build_ext", "--inplace", EFFKERN_BUILD_EMULATION="1")
    else:
        words = "-m pip install --no-index --no-deps --no-build-isolation --verbose --editable ."
        build = _python(*words.split(), EFFKERN_BUILD_CUDA="1", EFFKERN_CUDA_ARCHS=archs)
    return Slice("build", "the library, for this GPU alone", (build,))


def _conformance(dry: bool, nvcc: str) -> Slice:
    source = "csrc/emulation/runners/ptx_conformance.cu"
    if dry:
        build = _python("tools/build_emulation.py", "plain", "ptx_conformance")
        program = "build/emulation-plain-ptx_conformance/bin/ptx_conformance"
    else:
        program = "{out}/ptx_conformance"
        flags = ("-std=c++17", "-O2", "-arch=native", "-Icsrc", source, "-o", program)
        build = Command((nvcc, *flags))
    tests = _python("-m", "pytest", "tests/compile/test_ptx.py", "-q", "--junitxml={out}/junit.xml")
    return Slice("conformance", "each PTX wrapper's results", (build, Command((program,)), tests))


def _micro(dtype: str, batch: int, dry: bool) -> Slice:
    words = ["-m", "benchmarks", "micro", "--dtype", dtype, "--output", "{out}"]
    if dry:
        words += ["--quick", "--device", "cpu", "--model", "convnext_tiny", "--pass", "fwd"]
        words += ["--peers", "torch", "--layout", "channels_last"]
    else:
        words += ["--device", "cuda", "--batch", str(batch)]
    about = f"every layer and pass against torch, {dtype}, batch {batch}"
    return Slice(f"micro-{dtype}-{batch}", about, (_python(*words),))


def _instrumented(name: str, tool: str, options: str, backend: str, dry: bool) -> Slice:
    """Every kernel family of a backend under a tool; the tool is left out in a dry run."""
    program = [sys.executable, "tools/gpu_kernels.py", "--backend", backend]
    # An allocation of its own for each tensor, so that an overrun of one is seen.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if backend == "triton_interpreted":
        environment["TRITON_INTERPRET"] = "1"
    if name == "profile":
        program += ["--layers", "1" if dry else "10"]
    program += ["--problems", "1"] if dry else []
    words = program if dry else [tool, *options.split(), *program]
    about = f"{name} of every kernel family, {backend}"
    return Slice(
        f"{name}-{backend.split('_')[0]}",
        about,
        (Command(tuple(words), environment),),
        None if dry else tool,
    )


def slices(dry: bool, archs: str, nvcc: str) -> Iterator[Slice]:
    """All slices, the most important first.

    Args:
        archs: EFFKERN_CUDA_ARCHS of the build. nvcc: the compiler. Neither counts in a dry run.
    """
    direct, triton = ("cuda_emulated", "triton_interpreted") if dry else ("cuda", "triton")
    yield _build(dry, archs)
    for part in (1, 2):
        yield _tests(f"tests-cuda-{part}", direct, part, 2, _OPERATOR, dry)
    for part in (1, 2, 3, 4):
        words = (*_OPERATOR, "tests/triton")
        yield _tests(f"tests-triton-{part}", triton, part, 4, words, dry)
    yield _conformance(dry, nvcc)
    device = ("--device", "cpu" if dry else "cuda")
    baseline = ("-m", "benchmarks.baseline", *device, *(("--quick",) if dry else ()))
    for what, about in (
        ("ceilings", "matrix products, copies, L2 cache"),
        ("host", "host time of a call"),
    ):
        yield Slice(what, about, (_python(*baseline, what, "--output", "{out}"),))
    for dtype, batch in MICRO:
        yield _micro(dtype, batch, dry)
    yield _tests("tests-package", direct, 1, 1, _PACKAGE, dry)
    for backend in (direct, triton):
        for check in ("memcheck", "racecheck"):
            options = f"--tool {check} --error-exitcode 9"
            yield _instrumented(check, "compute-sanitizer", options, backend, dry)
    sections = "SpeedOfLight MemoryWorkloadAnalysis Occupancy WarpStateStats LaunchStats"
    options = "--clock-control none --log-file {out}/ncu.txt "
    options += "--kernel-name regex:depthwise|stencil|weight_grad "
    options += " ".join(f"--section {section}" for section in sections.split())
    for backend in (direct, triton):
        yield _instrumented("profile", "ncu", options, backend, dry)
