"""Makes Triton's interpreter (TRITON_INTERPRET=1) a test bed for kernels.

As it comes, the interpreter truncates where a GPU rounds, computes on the bit patterns of bfloat16,
and lets a kernel read and write wherever it likes: most planted faults give the right answer.
`install` changes that for this process:

rounding     float32 -> bfloat16 rounds to nearest even; float64 goes through no other type
16 bits      arithmetic and reductions on float16 or bfloat16 values raise: widen them first.
             tl.dot takes them, and is computed in float32
bounds       every live lane of a load or store must hit an element of a tensor that the launch was
             given: of the view, not of the storage behind it or of the gaps between its elements
other=       a load whose mask hides a lane must say what the lane holds (a GPU leaves it undefined)
races        two programs of a launch may not store to one address, nor one load what another has
             stored in the same launch; one store may not hit an address twice

Messages name the kernel, the program and the argument.

What it cannot know: time, and what a real device does with atomics, caches and rounding in
approximate instructions. Tested with triton 3.6.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import interpreter_speed

# Views with gaps are looked up element by element, up to this many elements.
_MOST_MAPPED = 1 << 26
_NOBODY = -1


class GuardError(RuntimeError):
    """What a kernel did that a GPU would punish, or silently get wrong."""


class _View:
    """The memory of one tensor argument, and which program stored to each of its elements."""

    def __init__(self, name: str, tensor: Any) -> None:
        self.name = name
        self.itemsize = tensor.element_size()
        self.begin = tensor.data_ptr()
        strides = tensor.stride()
        self.span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
        self.end = self.begin + self.span * self.itemsize
        self._elements: np.ndarray | None = None
        if tensor.numel() < self.span <= _MOST_MAPPED:
            self._elements = np.zeros(self.span, dtype=bool)
            bytes_per = [s * self._elements.itemsize for s in strides]
            np.lib.stride_tricks.as_strided(self._elements, tuple(tensor.shape), bytes_per)[...] = 1
        self.writer: np.ndarray | None = None

    def holds(self, index: np.ndarray) -> np.ndarray:
        if self._elements is None:
            return np.ones(index.shape, dtype=bool)
        return self._elements[index]


class _Launch:
    """What the guards know about the launch that runs."""

    def __init__(self, kernel: str, arguments: dict[str, Any]) -> None:
        self.kernel = kernel
        self.views = [
            _View(name, value)
            for name, value in arguments.items()
            if hasattr(value, "data_ptr") and value.numel()
        ]

    def fail(self, what: str) -> GuardError:
        from triton.runtime import interpreter

        program = getattr(interpreter.interpreter_builder, "grid_idx", None)
        return GuardError(f"kernel {self.kernel}, program {program}: {what}")

    def _nearest(self, address: int) -> _View:
        return min(self.views, key=lambda v: max(v.begin - address, address - v.end, 0))

    def check(self, pointers: Any, mask: np.ndarray, itemsize: int, what: str) -> None:
        """Bounds and races of one access; `what` is "load" or "store"."""
        addresses = pointers.data[mask]
        left = np.ones(addresses.shape, dtype=bool)
        for view in self.views:
            inside = left & (addresses >= view.begin) & (addresses + itemsize <= view.end)
            if not inside.any():
                continue
            offsets = (addresses[inside] - np.uint64(view.begin)).astype(np.int64)
            index = offsets // view.itemsize
            # Views may overlap: an element between those of one may belong to another.
            hit = view.holds(index) & (offsets % view.itemsize == 0)
            left[np.flatnonzero(inside)[hit]] = False
            self._check_races(view, index[hit], what)
            if not left.any():
                return
        if left.any():
            address = int(addresses[left][0])
            view = self._nearest(address)
            raise self.fail(
                f"out of bounds: {what} of {int(left.sum())} of {addresses.size} lanes, the first "
                f"at byte {address - view.begin} of argument {view.name!r}, whose view has "
                f"{view.end - view.begin} bytes"
                + (" with gaps" if view.begin <= address < view.end else "")
            )

    def _check_races(self, view: _View, index: np.ndarray, what: str) -> None:
        if what == "load" and view.writer is None:
            return
        if view.writer is None:
            view.writer = np.full(view.span, _NOBODY, dtype=np.int64)
        program = self._program()
        writers = view.writer[index]
        others = writers[(writers != _NOBODY) & (writers != program)]
        if others.size:
            verb = "store to" if what == "store" else "use, one storing and one loading,"
            raise self.fail(
                f"race: programs {int(others[0])} and {program} (counted along the grid) {verb} "
                f"the same element of argument {view.name!r}"
            )
        if what == "store":
            if np.unique(index).size != index.size:
                raise self.fail(f"race: one store hits an element of argument {view.name!r} twice")
            view.writer[index] = program

    @staticmethod
    def _program() -> int:
        from triton.runtime import interpreter

        builder = interpreter.interpreter_builder
        x, y, z = builder.grid_idx
        _, size_y, size_z = builder.grid_dim
        return (x * size_y + y) * size_z + z


_launch: _Launch | None = None
_installed = False


def round_to_bfloat16(value: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16 (uint16): to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FC0), rounded)


def _widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def install() -> None:
    """Installs the guards in this process; a second call does nothing.

    Raises:
        RuntimeError: the process does not interpret Triton kernels.
    """
    global _installed
    if _installed:
        return
    from .. import _triton

    reason = _triton.unavailable_reason(interpreted=True)
    if reason is not None:
        raise RuntimeError(f"interpreter_guard.install: {reason}")
    from triton.runtime import interpreter

    _guard_arithmetic(interpreter)
    _guard_memory(interpreter)
    _guard_launches(interpreter)
    interpreter_speed.install()
    check_integer_overflow(False)
    _installed = True


def check_integer_overflow(on: bool) -> None:
    """Whether an overflow in a kernel's 32-bit integer arithmetic raises (2 to 3 times as slow)."""
    from triton.runtime import interpreter

    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(
        debug=on, sanitize_overflow=on
    )


def _is_half(handle: Any) -> bool:
    import triton.language as tl

    dtype = handle.dtype
    return not isinstance(dtype, tl.pointer_type) and dtype.scalar in (tl.float16, tl.bfloat16)


def _guard_arithmetic(interpreter: Any) -> None:
    import triton.language as tl

    builder, handle_type = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast, dot = builder.cast_impl, builder.create_dot

    def cast_impl(self, source, destination):
        wanted, got = destination.scalar, source.dtype.scalar
        if got == wanted or tl.bfloat16 not in (got, wanted):
            return cast(self, source, destination)
        if got == tl.bfloat16:
            wide = handle_type(_widen_bfloat16(source.data), tl.float32)
            return wide if wanted == tl.float32 else cast(self, wide, destination)
        if got == tl.float64:
            # Rounding twice would not be rounding to nearest: odd rounding in between is.
            nearest = source.data.astype(np.float32)
            inexact = (nearest != source.data) & np.isfinite(nearest)
            bits = nearest.view(np.uint32)
            away = inexact & (np.abs(nearest) > np.abs(source.data))
            bits = np.where(inexact, (bits - away.astype(np.uint32)) | np.uint32(1), bits)
            value = bits.astype(np.uint32).view(np.float32)
        else:
            value = source.data.astype(np.float32)
        return handle_type(round_to_bfloat16(value), tl.bfloat16)

    def create_dot(self, a, b, sum, precision, imprecise):
        def widened(handle):
            if not _is_half(handle) or sum.dtype.scalar != tl.float32:
                return handle
            return cast_impl(self, handle, tl.float32)

        return dot(self, widened(a), widened(b), sum, precision, imprecise)

    def widened_only(name):
        original = getattr(builder, name)

        def operation(self, *arguments):
            for argument in arguments:
                if isinstance(argument, handle_type) and _is_half(argument):
                    what = f"arithmetic on {argument.dtype.scalar} values"
                    raise _failure(f"{what}: widen them with .to(tl.float32)")
            return original(self, *arguments)

        return operation

    builder.cast_impl, builder.create_dot = cast_impl, create_dot
    for name in ("binary_op", "unary_op", "create_fabs", "create_fma", "create_clampf"):
        setattr(builder, name, widened_only(name))

    for reduction in (interpreter.ReduceOps, interpreter.ScanOps):
        _guard_reduction(reduction)


def _guard_reduction(reduction: Any) -> None:
    original = reduction.apply_impl

    def apply_impl(self, input):
        for tensor in input:
            if _is_half(tensor.handle):
                what = f"a reduction of {tensor.dtype} values"
                raise _failure(f"{what}: widen them with .to(tl.float32)")
        return original(self, input)

    reduction.apply_impl = apply_impl


def _failure(what: str) -> GuardError:
    return _launch.fail(what) if _launch is not None else GuardError(what)


def _live(pointers: Any, mask: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(mask.data, dtype=bool), pointers.data.shape)


def _guard_memory(interpreter: Any) -> None:
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def itemsize(pointers):
        return max(1, pointers.get_element_ty().primitive_bitwidth // 8)

    def create_masked_load(self, pointers, mask, other, *rest):
        live = _live(pointers, mask)
        if _launch is not None:
            _launch.check(pointers, live, itemsize(pointers), "load")
        if other is None and not live.all():
            raise _failure(
                f"load without other=: {int((~live).sum())} of {live.size} lanes are masked out "
                "and undefined on a GPU"
            )
        return load(self, pointers, mask, other, *rest)

    def create_masked_store(self, pointers, value, mask, *rest):
        if _launch is not None:
            _launch.check(pointers, _live(pointers, mask), itemsize(pointers), "store")
        return store(self, pointers, value, mask, *rest)

    def create_atomic_rmw(self, operation, pointer, value, mask, *rest):
        raise _failure("an atomic: their order is not fixed, so results would not be either")

    builder.create_masked_load = create_masked_load
    builder.create_masked_store = create_masked_store
    builder.create_atomic_rmw = create_atomic_rmw


def _guard_launches(interpreter: Any) -> None:
    executor = interpreter.GridExecutor
    call, initialise = executor.__call__, executor._init_args_hst
    restore = executor._restore_args_dev

    def restore_args_dev(self, arguments, copies, keywords, keyword_copies):
        values = (*arguments, *keywords.values())
        if any(hasattr(v, "data_ptr") and v.device.type != "cpu" for v in values):
            restore(self, arguments, copies, keywords, keyword_copies)
        # Tensors on the CPU were interpreted in place: copying their storages onto themselves would
        # be no more than slow.

    def init_args_hst(self, arguments, keywords):
        global _launch
        arguments, keywords = initialise(self, arguments, keywords)
        named = dict(zip(self.arg_names, arguments, strict=False)) | keywords
        _launch = _Launch(self.fn.__name__, named)
        return arguments, keywords

    def launch(self, *arguments, **keywords):
        global _launch
        try:
            return call(self, *arguments, **keywords)
        finally:
            _launch = None

    executor._init_args_hst, executor.__call__ = init_args_hst, launch
    executor._restore_args_dev = restore_args_dev
