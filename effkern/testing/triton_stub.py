"""Triton launches without a GPU: specialised for a device that is not there, recorded, not run.

The launchers' own code runs, so arguments, specialisation and grids are those of a real launch.
Tensors may be "meta" tensors of any size. Not for a process that interprets kernels.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Bytes of shared memory that a block may have, from the CUDA programming guide's table of limits.
SHARED_MEMORY = {80: 166912, 90: 232448, 100: 232448, 120: 101376}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, and all that its machine code depends on.

    Attributes:
        kernel: its name. grid: programs along x, y, z. capability: 90 for sm_90.
        values: the constant arguments by name (None for a tensor that is not there).
        options: num_warps, num_stages and, if there is a limit, maxnreg.
    """

    kernel: str
    grid: tuple[int, int, int]
    capability: int
    values: dict[str, Any]
    options: dict[str, int]
    _source: Any = field(repr=False)
    _options: Any = field(repr=False)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal where the machine code is: of the kernels' code (without comments), the
        specialisation, triton's version and the device."""
        import triton

        source = self._source
        parts = (
            _code(Path(source.fn.fn.__code__.co_filename).parent),
            source.fn.fn.__name__,
            sorted(source.signature.items()),
            sorted((str(path), repr(value)) for path, value in source.constants.items()),
            sorted((str(path), str(value)) for path, value in source.attrs.items()),
            sorted(self.options.items()),
            self.capability,
            triton.__version__,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def types(self) -> dict[str, str]:
        """Of the arguments by name, "*bf16" of a pointer."""
        return dict(self._source.signature)

    @functools.cached_property
    def ir(self) -> str:
        """Hash of triton's IR without places in the source: with equal options, triton's version
        and device, equal IR becomes equal machine code, whatever the source. A fifth of a second.
        """
        from triton._C.libtriton import ir
        from triton.backends.compiler import GPUTarget
        from triton.compiler.compiler import make_backend

        target = GPUTarget("cuda", self.capability, 32)
        backend, context = make_backend(target), ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        functions = backend.get_codegen_implementation(self._options)
        module = self._source.make_ir(
            target, self._options, functions, backend.get_module_map(), context
        )
        return hashlib.sha256(module.str_nodebug().encode()).hexdigest()[:16]

    def compile(self) -> Any:
        """triton's CompiledKernel: `asm`, `metadata`.

        Raises:
            triton.TritonError: it does not compile.
        """
        import triton
        from triton.backends.compiler import GPUTarget

        target = GPUTarget("cuda", self.capability, 32)
        return triton.compile(self._source, target=target, options=self._options.__dict__)


@functools.cache
def _code(folder: Path) -> str:
    """The code of the kernels in a folder, and in those they import from, without comments,
    docstrings and line numbers."""
    text = []
    # What they are launched with shows in the specialisation.
    paths = [p for p in sorted(folder.glob("*.py")) if p.name not in ("launch.py", "configs.py")]
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
                text.append(_code(folder.parent / node.module.split(".")[0]))
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant):
                    del body[0]
        text.append(ast.dump(tree))
    return "\n".join(text)


class _Recorder:
    """In place of a compiled kernel."""

    function = packed_metadata = None

    def __init__(self, launches: list[Launch], source: Any, options: Any, capability: int) -> None:
        self._launches = launches
        self._source, self._options, self._capability = source, options, capability

    def launch_metadata(self, *arguments: Any) -> None:
        return None

    def run(self, x: int, y: int, z: int, *rest: Any) -> None:
        source = self._source
        names = list(source.signature)
        self._launches.append(
            Launch(
                source.fn.fn.__name__,
                (x, y, z),
                self._capability,
                {names[path[0]]: value for path, value in source.constants.items()},
                {
                    name: getattr(self._options, name)
                    for name in ("num_warps", "num_stages", "maxnreg")
                    if getattr(self._options, name) is not None
                },
                source,
                self._options,
            )
        )


def _driver(capability: int) -> Any:
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class Driver(DriverBase):
        @staticmethod
        def is_active():
            return False

        def map_python_to_cpp_type(self, type):
            return "void*"

        def get_current_target(self):
            return GPUTarget("cuda", capability, 32)

        def get_active_torch_device(self):
            return torch.device("cpu")

        def get_current_device(self):
            # What triton knows of a target is kept for each device: one device for each target.
            return capability

        def get_current_stream(self, device):
            return 0

        def get_benchmarker(self):
            raise RuntimeError("wanted configurations from a table, got a search for the fastest")

    return Driver()


@contextmanager
def recorded_launches(capability: int) -> Iterator[list[Launch]]:
    """Every Triton launch inside the ``with`` block is specialised for sm_`capability`, recorded
    and neither compiled nor run.

    Raises:
        ValueError: a capability other than those of `SHARED_MEMORY`.
    """
    from triton.compiler import ASTSource
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    if capability not in SHARED_MEMORY:
        known = ", ".join(map(str, SHARED_MEMORY))
        raise ValueError(f"recorded_launches: capability: wanted one of {known}, got {capability}")
    launches: list[Launch] = []

    def record(self, key, signature, device, constexprs, options, attrs, warmup):
        source = ASTSource(self, signature, constexprs, attrs)
        return _Recorder(launches, source, options, capability)

    before = driver._active, JITFunction._do_compile
    driver.set_active(_driver(capability))
    JITFunction._do_compile = record
    try:
        yield launches
    finally:
        driver._active, JITFunction._do_compile = before
