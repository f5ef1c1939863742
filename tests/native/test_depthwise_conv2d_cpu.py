"""The CPU kernels without torch, under sanitizers."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from pathlib import Path

import build_plan
import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
X86 = platform.machine() == "x86_64"

if not CSRC.is_dir():
    pytest.skip("the sources are not here", allow_module_level=True)

# What a sanitizer needs to be told, and what it looks for.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}

# The folders of csrc that a program is linked from, and their sources beside the kernels.
PROGRAMS = {
    "depthwise_conv2d_cpu": {"depthwise_conv2d": ("cpu", "plan", "cuda_plan")},
    "pointwise_cpu": {"pointwise": ("cpu", "plan"), "fused_mbconv": ("cpu",)},
}


NEEDED = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512bw"},
    "avx512_bf16": {"avx512bw", "avx512_bf16"},
}


def cpu_has(isa: str) -> bool:
    if isa == "baseline":
        return True
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    return X86 and NEEDED[isa] <= set(flags)


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """Compiles the runner with the kernels of some instruction sets; what is compiled is kept."""
    folder = tmp_path_factory.mktemp("native")
    compiler = build_plan.find_compiler()

    def build(sanitizer: str, isas: tuple[str, ...], program: str = "depthwise_conv2d_cpu") -> Path:
        options = [*"-std=c++17 -O1 -g1 -fno-math-errno -fno-trapping-math".split(), f"-I{CSRC}"]
        options += [*SANITIZERS[sanitizer], *(["-DEFFKERN_X86"] if X86 else [])]
        options += [f"-DWITH_{isa.upper()}" for isa in isas]
        sources = {}
        for folder_, names in PROGRAMS[program].items():
            place = CSRC / folder_
            sources |= {place / f"{folder_}_{name}.cpp": [] for name in names}
            sources |= {
                place / f"{folder_}_cpu_{isa}.cpp": build_plan.X86_FLAGS[isa] for isa in isas
            }
        objects = []
        for path, flags in {**sources, HERE / f"{program}.cpp": []}.items():
            stem = "runner" if path.parent == HERE else path.stem
            objects.append(str(folder / f"{program}-{'-'.join(isas)}-{sanitizer}-{stem}.o"))
            run(*compiler, *options, *flags, "-c", str(path), "-o", objects[-1])
        executable = folder / f"{program}-{'-'.join(isas)}-{sanitizer}"
        run(*compiler, *SANITIZERS[sanitizer], *objects, "-o", str(executable), "-pthread")
        return executable

    return build


def run(*command: str) -> str:
    environment = os.environ | {"TSAN_OPTIONS": "exitcode=66", "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[:4000]}"
    return done.stdout


@pytest.mark.parametrize(
    "sanitizer", ("address", pytest.param("thread", marks=pytest.mark.slow_build))
)
def test_portable_kernels(runner, sanitizer):
    output = run(str(runner(sanitizer, ("baseline",))), "baseline", "300")
    assert output.endswith("300 problems, 0 failures\n")


# Minutes to compile: instrumented code does not fit the registers that the kernels count on.
@pytest.mark.slow_build
@pytest.mark.parametrize("isa", ("baseline", "avx2", "avx512"))
def test_kernels_of_the_blocks(runner, isa):
    if not cpu_has(isa):
        pytest.skip(f"this processor has no {isa}")
    output = run(
        str(runner("address", ("baseline", isa)[isa == "baseline" :], "pointwise_cpu")), isa, "400"
    )
    assert output.endswith("400 problems, 0 failures\n")


@pytest.mark.slow_build
@pytest.mark.parametrize("isa", ("avx2", "avx512"))
def test_vector_kernels(runner, isa):
    if not cpu_has(isa):
        pytest.skip(f"this processor has no {isa}")
    # Plans for AVX-512 choose AVX2's kernels for some images.
    isas = ("baseline", "avx2", "avx512")[: 3 if isa == "avx512" else 2]
    program = str(runner("address", isas))
    # Of the same file, for processors that multiply bfloat16.
    more = ("avx512_bf16",) if isa == "avx512" and cpu_has("avx512_bf16") else ()
    for name in (isa, *more):
        output = run(program, name, "2000")
        assert output.endswith("2000 problems, 0 failures\n")
