"""Builds effkern: one library on torch's stable ABI and one small pybind11 module.

`pip install .` and `python setup.py build_ext --inplace` both end in BuildExt, which writes a
build.ninja from what tools/build_plan.py finds. CONTRIBUTING.md lists the environment variables.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# setuptools' build backend does not put the project's directory on the path.
sys.path.insert(0, str(ROOT / "tools"))

import build_cuda  # noqa: E402
import build_emulation  # noqa: E402
import build_plan as plan  # noqa: E402

OPS, MODULE = "effkern.libeffkern_ops", "effkern._C"
EMULATED = "effkern.libeffkern_emulated"
BUILD = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"


class BuildExt(build_ext):
    """Compiles with ninja in a directory that is kept: unchanged files are not built again."""

    def get_ext_filename(self, fullname):
        # Called with the dotted name and with its last part. The library is not tied to a Python.
        name = super().get_ext_filename(fullname)
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        return name.replace(suffix, ".so") if ".lib" in f".{fullname}" else name

    def finalize_options(self):
        if os.environ.get("EFFKERN_BUILD_EMULATION") == "1":
            if not (self.inplace or self.editable_mode):
                plan.fail("EFFKERN_BUILD_EMULATION=1 is for checkouts (--inplace), not for wheels")
            self.distribution.ext_modules.append(Extension(EMULATED, []))
        super().finalize_options()

    def build_extensions(self):
        plan.check_compile_tools()
        emulated = any(ext.name == EMULATED for ext in self.extensions)
        torch, cxx = plan.find_torch(), plan.find_compiler()
        cuda = build_cuda.find_cuda(torch)
        facts = {
            "VERSION": self.distribution.get_version(),
            "BUILD_TORCH": torch.version,
            "BUILD_TORCH_TARGET": plan.TORCH_TARGET_TEXT,
            "BUILD_CUDA": ".".join(map(str, cuda.version)) if cuda.nvcc else "",
            "BUILD_CUDA_ARCHS": " ".join(cuda.archs),
            "BUILD_CUDA_REASON": cuda.reason,
            "BUILD_COMPILER": plan.compiler_version(cxx),
            "BUILD_COMMIT": plan.commit(ROOT),
        }
        print(plan.summary(facts, torch, cuda.nvcc), file=sys.stderr, flush=True)
        if self.force:
            shutil.rmtree(BUILD, ignore_errors=True)
        BUILD.mkdir(parents=True, exist_ok=True)
        plan.write_facts(facts, BUILD / "effkern_build_info.h")
        write_ninja(torch, cuda, cxx, emulated)
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        # Through the environment, so that another number of jobs does not recompile. One .cu holds
        # several architectures, which nvcc then compiles side by side.
        threads = f"--threads {min(4, int(jobs))}"
        flags = f"{threads} {os.environ.get('NVCC_PREPEND_FLAGS', '')}"
        command = [sys.executable, "-m", "ninja", "-C", str(BUILD), "-j", jobs]
        if subprocess.run(command, env={**os.environ, "NVCC_PREPEND_FLAGS": flags}).returncode:
            hint = "; EFFKERN_BUILD_CUDA=0 leaves the CUDA kernels out" if cuda.nvcc else ""
            plan.fail(f"a file did not compile, see above{hint}")
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(BUILD / f"{ext.name.split('.')[1]}.so"), str(target))


def write_ninja(torch, cuda, cxx, emulated):
    """Writes BUILD/build.ninja. Paths below ROOT are relative, so that no binary holds them."""
    import pybind11
    from ninja.ninja_syntax import Writer

    top = os.path.relpath(ROOT, BUILD)
    # No -ffast-math: infinities and NaN keep their meaning. errno and traps are never looked at.
    common = [
        *"-O3 -std=c++17 -fPIC -fvisibility=hidden -Wall -fno-math-errno".split(),
        *["-fno-trapping-math", f"-ffile-prefix-map={top}/=", f"-I{top}/csrc"],
        *(["-DEFFKERN_X86"] if platform.machine() == "x86_64" else []),
        # Last, so that they win.
        *shlex.split(os.environ.get("CXXFLAGS", "")),
    ]
    target = f"-DTORCH_TARGET_VERSION={plan.TORCH_TARGET_VERSION:#018x}"
    # Dependency files leave system headers out; the version recompiles when torch is replaced.
    used = f'-DEFFKERN_TORCH_HEADERS="{torch.version}"'
    with_cuda = ["-DEFFKERN_WITH_CUDA"] if cuda.nvcc else []
    python = [pybind11.get_include(), sysconfig.get_path("include")]
    flags = {
        "isa": common,
        "shared": common,
        "op": [*common, *with_cuda, target, used, f"-isystem{torch.root}/include"],
        "module": [*common, "-I.", *(f"-isystem{path}" for path in python)],
        "cuda": [
            *["-O3", "-std=c++17", f"-I{top}/csrc", *cuda.gencode],
            *(["-ccbin", [t for t in cxx if t[0] != "-"][-1]] if os.environ.get("CXX") else []),
            *["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall"],
        ],
    }
    link = ["-shared", "-s", "-Wl,-O1", *shlex.split(os.environ.get("LDFLAGS", ""))]
    # libtorch.so pulls in libtorch_cuda.so, where there is one; nothing refers to it by name.
    libs = [f"-L{torch.root}/lib", "-Wl,-z,defs,--no-as-needed", "-ltorch"]
    libs += ["-Wl,--as-needed", "-ltorch_cpu"]
    if cuda.nvcc:
        # Static, so that the library also loads where there is no CUDA.
        libs += [f"-L{path}" for path in cuda.library_dirs]
        libs += ["-Wl,--exclude-libs,ALL", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]

    with (BUILD / "build.ninja").open("w") as file:
        ninja = Writer(file, width=1000)
        for rule, compiler in (("cxx", shlex.join(cxx)), ("nvcc", shlex.quote(cuda.nvcc))):
            command = f"{compiler} -MMD -MF $out.d $flags -c $in -o $out"
            ninja.rule(rule, command, description="$in", depfile="$out.d", deps="gcc")
        ninja.rule("link", f"{shlex.join(cxx)} $in -o $out $flags", description="$out")
        objects: dict[str, list[str]] = {OPS: [], MODULE: []}
        for source in plan.find_sources(ROOT / "csrc", platform.machine(), bool(cuda.nvcc)):
            path = source.path.relative_to(ROOT)
            values = {"flags": shlex.join(flags[source.role] + source.flags).replace("$", "$$")}
            rule = "nvcc" if source.role == "cuda" else "cxx"
            ninja.build([f"{path}.o"], rule, [f"{top}/{path}"], variables=values)
            for library in (OPS, MODULE):
                if source.role == "shared" or (source.role == "module") == (library == MODULE):
                    objects[library].append(f"{path}.o")
        if emulated:
            objects[EMULATED] = add_emulation(ninja, objects[OPS], flags["op"])
        for name, extra in ((OPS, libs), (MODULE, []), (EMULATED, libs))[: len(objects)]:
            variables = {"flags": shlex.join(link + extra).replace("$", "$$")}
            ninja.build([f"{name.split('.')[1]}.so"], "link", objects[name], variables=variables)


def add_emulation(ninja, ops, op_flags):
    """Compiles the emulator and the CUDA kernels for it; returns the emulated library's objects."""
    csrc, top = ROOT / "csrc", os.path.relpath(ROOT, BUILD)
    cuda_headers = f"-isystem{build_emulation.cuda_include()}"
    runtime = [*build_emulation.FLAGS, f"-I{top}/csrc", cuda_headers]
    kernels = [*runtime, *build_emulation.KERNEL_FLAGS]
    # Problems and plans from tensors are the operators' own.
    objects = [name for name in ops if name.endswith(("_plan.cpp.o", "_arguments.cpp.o"))]
    for sources, flags in (
        (build_emulation.kernel_sources(csrc), kernels),
        (build_emulation.runtime_sources(csrc), runtime),
        (sorted(csrc.rglob("*_emu.cpp")), [*op_flags, cuda_headers]),
    ):
        for path in sources:
            name = path.relative_to(ROOT)
            objects.append(f"emulated/{name}.o")
            variables = {"flags": shlex.join(flags).replace("$", "$$")}
            ninja.build([objects[-1]], "cxx", [f"{top}/{name}"], variables=variables)
    return objects


plan.check_setuptools()
plan.check_variables()
# Elsewhere effkern is Python only, and every call takes torch.
native = [Extension(OPS, []), Extension(MODULE, [])] if sys.platform == "linux" else []
# Already for the metadata: later, pip would first resolve and download torch, and then fail.
if native and {"dist_info", "bdist_wheel", "editable_wheel", "build", "build_ext"} & set(sys.argv):
    plan.find_torch()
triton = [f"effkern.triton_kernels.{name}" for name in find_packages("triton_kernels")]
setup(
    packages=[*find_packages(include=["effkern", "effkern.*"]), "effkern.triton_kernels", *triton],
    package_dir={"effkern.triton_kernels": "triton_kernels"},
    ext_modules=native,
    cmdclass={"build_ext": BuildExt},
)
