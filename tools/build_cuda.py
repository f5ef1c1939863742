"""The CUDA half of a build: which nvcc, which GPU architectures."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from build_plan import Torch, fail, output

# The oldest GPU with the instructions the direct kernels use.
MIN_CUDA_ARCH = 75
# A100 and H100, where most training happens; all of sm_8x runs sm_80 code.
REAL_CUDA_ARCHS = (80, 90)


@dataclass(frozen=True)
class Cuda:
    """The CUDA half of the build; without nvcc, `reason` says why there is none."""

    reason: str = ""
    nvcc: str = ""
    version: tuple[int, int] = (0, 0)
    library_dirs: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()

    @property
    def gencode(self) -> list[str]:
        """nvcc's flags for `archs`, whose entries are nvcc's own names: sm_90 or compute_90."""
        return [f"-gencode=arch=compute_{a.split('_')[1]},code={a}" for a in self.archs]


def find_cuda(torch: Torch) -> Cuda:
    """The CUDA toolkit to build with. nvcc decides, never whether this machine has a GPU."""
    mode = os.environ.get("EFFKERN_BUILD_CUDA") or "auto"
    if mode == "0":
        return Cuda(reason="EFFKERN_BUILD_CUDA=0")
    if torch.hip:
        reason = f"torch {torch.version} is built for ROCm"
        if mode == "1":
            fail(f"EFFKERN_BUILD_CUDA=1, but {reason}")
        return Cuda(reason=reason)
    found = [(nvcc, _nvcc_version(nvcc)) for nvcc in nvcc_candidates()]
    if not found:
        reason = "no nvcc in EFFKERN_NVCC, CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"
        if mode == "auto":
            return Cuda(reason=reason)
        toolkit = f"CUDA toolkit {torch.cuda.split('.')[0]}.x" if torch.cuda else "CUDA toolkit"
        fail(f"EFFKERN_BUILD_CUDA=1, but {reason}. Install the {toolkit}, or unset the variable.")
    # A CPU-only torch says nothing about CUDA. Otherwise minor versions mix, majors do not.
    major = int(torch.cuda.split(".")[0]) if torch.cuda else None
    usable = [(nvcc, version) for nvcc, version in found if major in (None, version[0])]
    if not usable:
        listed = ", ".join(f"{nvcc} (CUDA {v[0]}.{v[1]})" for nvcc, v in found)
        fail(
            f"torch {torch.version} is built for CUDA {torch.cuda}, but the only nvcc is {listed}. "
            f"Set EFFKERN_NVCC to the nvcc of a CUDA {major} toolkit, or EFFKERN_BUILD_CUDA=0 to "
            "build without CUDA kernels."
        )
    nvcc, version = usable[0]
    known = [int(n) for n in re.findall(r"compute_(\d+)", output([nvcc, "--list-gpu-arch"]))]
    archs = os.environ.get("EFFKERN_CUDA_ARCHS") or default_archs(known)
    return Cuda("", nvcc, version, _library_dirs(nvcc), tuple(parse_archs(archs, known)))


def nvcc_candidates() -> list[str]:
    """Every nvcc that a build would try, best first."""
    chosen = os.environ.get("EFFKERN_NVCC")
    if chosen:
        if not (os.access(chosen, os.X_OK) and Path(chosen).is_file()):
            fail(f"EFFKERN_NVCC must be an executable file; got {chosen!r}")
        return [chosen]
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [Path(home, "bin") for home in homes if home]
    paths = [shutil.which("nvcc", path=place) for place in places]
    paths += [shutil.which("nvcc"), shutil.which("nvcc", path="/usr/local/cuda/bin")]
    return list(dict.fromkeys(path for path in paths if path))


def _nvcc_version(nvcc: str) -> tuple[int, int]:
    text = output([nvcc, "--version"])
    release = re.search(r"release (\d+)\.(\d+)", text)
    if release is None:
        fail(f"{nvcc} --version names no release:\n{text}")
    return int(release[1]), int(release[2])


def _dry_run(nvcc: str) -> str:
    # Asked of nvcc itself, because nvcc on PATH may be a wrapper script.
    return output([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull])


def toolkit_root(nvcc: str) -> Path:
    """The folder with the toolkit's bin, include and lib64."""
    top = re.search(r"^#\$ TOP=(.*)$", _dry_run(nvcc), re.MULTILINE)
    return Path(top[1].strip() if top else Path(nvcc).resolve().parents[1]).resolve()


def _library_dirs(nvcc: str) -> tuple[str, ...]:
    """Where nvcc links from."""
    dry_run = _dry_run(nvcc)
    line = re.search(r"^#\$ LIBRARIES=(.*)$", dry_run, re.MULTILINE)
    dirs = re.findall(r'-L([^"]+?)"?(?:\s|$)', line[1]) if line else []
    top = re.search(r"^#\$ TOP=(.*)$", dry_run, re.MULTILINE)
    dirs += [f"{top[1].strip()}/{name}" for name in ("lib64", "lib")] if top else []
    dirs = [str(Path(d).resolve()) for d in dirs if Path(d, "libcudart_static.a").is_file()]
    if not dirs:
        fail(f"{nvcc} has no libcudart_static.a; install the toolkit's cudart development files")
    return tuple(dict.fromkeys(dirs))


def default_archs(known: list[int]) -> str:
    """Machine code for A100, H100 and the newest GPU family; PTX so that sm_75 and up all run.

    A GPU without machine code compiles the newest PTX that is not newer than itself: sm_75 takes
    compute_75, sm_100 takes compute_90. Within a major version, code for a lower minor runs on
    the higher, so the newest family is its lowest member.
    """
    newest = min(a for a in known if a // 10 == max(known) // 10)
    real = sorted({a for a in (*REAL_CUDA_ARCHS, newest) if a in known})
    ptx = {90, newest}
    items = [f"compute_{MIN_CUDA_ARCH}"] if MIN_CUDA_ARCH in known else []
    return ";".join(items + [f"{a}+PTX" if a in ptx else str(a) for a in real])


def parse_archs(text: str, known: list[int]) -> list[str]:
    """'80;9.0+PTX;compute_75' -> ['sm_80', 'sm_90', 'compute_90', 'compute_75'].

    A bare number or sm_ is machine code, +PTX adds PTX, compute_ is PTX only. Letters as in 90a
    are passed on to nvcc.
    """
    names = []
    for item in filter(None, re.split(r"[;,\s]+", text)):
        match = re.fullmatch(r"(sm_|compute_)?(\d+)\.?(\d)([af]?)(\+PTX)?", item)
        if match is None or (match[1] == "compute_" and match[5]):
            fail(
                f"EFFKERN_CUDA_ARCHS: {item!r} is not like 80, 8.0, sm_80, 90a, 90+PTX, compute_75"
            )
        number = match[2] + match[3]
        if int(number) < MIN_CUDA_ARCH or int(number) not in known:
            usable = ", ".join(str(a) for a in sorted(known) if a >= MIN_CUDA_ARCH)
            fail(f"EFFKERN_CUDA_ARCHS: {item!r} cannot be built; this nvcc offers {usable}")
        name = number + match[4]
        names += [f"compute_{name}"] if match[1] == "compute_" else [f"sm_{name}"]
        names += [f"compute_{name}"] if match[5] else []
    if not names:
        fail(f"EFFKERN_CUDA_ARCHS names no architecture: {text!r}")
    return list(dict.fromkeys(names))
