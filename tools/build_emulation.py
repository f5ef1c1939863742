"""The CUDA emulator's half of a build: the test library, and runners without torch.

    python tools/build_emulation.py plain depthwise_conv2d   # prints the path of the runner

`plain`, `two_types`, `asan` (AddressSanitizer and UndefinedBehaviorSanitizer) and `tsan` are the
builds. The emulator itself is compiled without instrumentation: its own state is not the kernel's.
setup.py takes the flags of `plain` for libeffkern_emulated.so (EFFKERN_BUILD_EMULATION=1).
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import build_cuda
import build_plan

ROOT = Path(__file__).resolve().parents[1]
# -O1: half the time to compile of -O2, and kernels that run as fast.
FLAGS = [
    *"-x c++ -std=c++17 -O1 -g1 -fPIC -fvisibility=hidden -Wall -Wno-unknown-pragmas".split(),
    *["-fno-strict-aliasing", "-DEFFKERN_EMULATION"],
]
# Names of kernels in messages come from the dynamic symbol table.
KERNEL_FLAGS = ["-fvisibility=default"]
# Of runners: so few that small images are copied in parts, and have the largest tiles.
RUNNER_FLAGS = ["-DEFFKERN_PLANES_BYTES=4096", "-DEFFKERN_POINTWISE_BLOCKS=2"]
KINDS: dict[str, tuple[list[str], list[str]]] = {
    # How the emulator and how kernels are compiled.
    "plain": ([], []),
    # float32 and bfloat16 only: half the time to compile.
    "two_types": ([], ["-DEFFKERN_EMULATION_TWO_TYPES"]),
    "asan": (
        ["-DEFFKERN_EMULATION_ASAN"],
        [
            *["-DEFFKERN_EMULATION_ASAN", "-DEFFKERN_EMULATION_TWO_TYPES"],
            *["-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
            "-fno-sanitize-recover=undefined",
        ],
    ),
    "tsan": (
        ["-DEFFKERN_EMULATION_TSAN"],
        [
            *["-DEFFKERN_EMULATION_TSAN", "-DEFFKERN_EMULATION_TWO_TYPES"],
            *["-fsanitize=thread", "-Wno-tsan"],
        ],
    ),
}


def cuda_include() -> str:
    """Where the toolkit's headers are; nvcc itself is not used."""
    for nvcc in build_cuda.nvcc_candidates():
        top = build_cuda.toolkit_root(nvcc)
        for path in (top / "include", top / "targets" / "x86_64-linux" / "include"):
            if (path / "cuda_bf16.h").is_file():
                return str(path)
    build_plan.fail(
        "the CUDA emulator needs the headers of a CUDA toolkit (cuda_fp16.h, cuda_bf16.h), but no "
        "nvcc was found that has them; set EFFKERN_NVCC or CUDA_HOME"
    )


def runtime_sources(csrc: Path) -> list[Path]:
    """The emulator itself."""
    return sorted(csrc.glob("emulation/*.cpp"))


def kernel_sources(csrc: Path) -> list[Path]:
    """The very files that nvcc compiles."""
    return sorted(csrc.rglob("*_cuda.cu"))


def build_runner(kind: str, name: str, csrc: Path = ROOT / "csrc") -> Path:
    """Compiles the runner `name` with the kernels in `csrc`, and returns its path.

    Nothing is compiled again that has not changed.
    """
    from ninja.ninja_syntax import Writer

    place = f"emulation-{kind}-{name}"
    build = ROOT / "build" / place if csrc == ROOT / "csrc" else csrc.parent / place
    build.mkdir(parents=True, exist_ok=True)
    include = [f"-I{csrc}", f"-isystem{cuda_include()}"]
    runtime, instrumented = ([*FLAGS, *RUNNER_FLAGS, *include, *extra] for extra in KINDS[kind])
    runners = csrc / "emulation" / "runners"
    runner = next(runners.glob(f"{name}.c*"), None)
    if runner is None:
        raise FileNotFoundError(f"wanted a runner of csrc/emulation/runners, got {name!r}")
    # The emulator's own kernels and the conformance test bring what they need.
    kernels = [path for path in kernel_sources(csrc) if path.parent.name == name]
    plans = sorted(csrc.glob(f"{name}/*_plan.cpp"))
    parts = [
        *((path, runtime) for path in runtime_sources(csrc)),
        *((path, [*instrumented, *KERNEL_FLAGS]) for path in [*kernels, runner]),
        *((path, instrumented) for path in plans),
    ]
    compiler = shlex.join(build_plan.find_compiler())
    with (build / "build.ninja").open("w") as file:
        # The package's own annotations take the file for a str.
        ninja: Any = Writer(cast(Any, file), width=1000)
        compile_one = f"{compiler} -MMD -MF $out.d $flags -c $in -o $out"
        ninja.rule("cxx", compile_one, description="$in", depfile="$out.d", deps="gcc")
        ninja.rule("link", f"{compiler} $in -o $out $flags", description="$out")
        objects = []
        for path, flags in parts:
            objects.append(f"{path.relative_to(csrc)}.o")
            variables = {"flags": shlex.join(flags).replace("$", "$$")}
            ninja.build([objects[-1]], "cxx", [str(path)], variables=variables)
        link = [flag for flag in KINDS[kind][1] if flag.startswith("-fsanitize")]
        ninja.build(
            [f"bin/{name}"], "link", objects, variables={"flags": shlex.join([*link, *LINK])}
        )
    jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "ninja", "-C", str(build), "-j", jobs]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ({kind}) did not compile:\n{done.stdout}")
    return build / "bin" / name


LINK = ["-rdynamic", "-ldl", "-lpthread"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="a file in csrc/emulation/runners, without its suffix")
    options = parser.parse_args()
    print(build_runner(options.kind, options.name))


if __name__ == "__main__":
    main()
