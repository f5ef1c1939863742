"""The guard of Triton's interpreter: correct kernels pass, planted faults are named."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from effkern import _triton
from effkern.testing import interpreter_guard
from effkern.testing.poison import SentinelBuffer

if not _triton.interpreting():
    pytest.skip("wanted a process with TRITON_INTERPRET=1", allow_module_level=True)
interpreter_guard.install()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

BLOCK = 16


@triton.jit
def twice(x, y, n, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    i = program * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    if FAULT == "load_without_mask":
        tl.store(y + i, tl.load(x + i) * 2, mask=mask)
    elif FAULT == "store_without_mask":
        tl.store(y + i, tl.load(x + i, mask=mask, other=0.0) * 2)
    elif FAULT == "one_before":
        tl.store(y + i, tl.load(x + i - 1, mask=mask, other=0.0) * 2, mask=mask)
    elif FAULT == "without_other":
        tl.store(y + i, tl.load(x + i, mask=mask) * 2, mask=mask)
    elif FAULT == "programs_overlap":
        j = i - program * 4
        tl.store(y + j, tl.load(x + j, mask=mask, other=0.0) * 2, mask=mask)
    elif FAULT == "one_store_twice":
        tl.store(y + i % 8, tl.load(x + i, mask=mask, other=0.0))
    elif FAULT == "loads_what_another_stored":
        before = tl.load(y + tl.maximum(i - BLOCK, 0), mask=mask, other=0.0)
        tl.store(y + i, tl.load(x + i, mask=mask, other=0.0) * 2 + before * 0, mask=mask)
    elif FAULT == "atomic":
        tl.atomic_add(y + i, tl.load(x + i, mask=mask, other=0.0) * 2, mask=mask)
    else:
        tl.store(y + i, tl.load(x + i, mask=mask, other=0.0) * 2, mask=mask)


def run_twice(fault, n=44):
    x, y = SentinelBuffer(torch.randn(n)), SentinelBuffer(torch.zeros(n))
    twice[(triton.cdiv(n, BLOCK),)](x.view, y.view, n, FAULT=fault, BLOCK=BLOCK)
    return x.view, y.view


def test_correct_kernel():
    x, y = run_twice("none")
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize(
    ("fault", "message"),
    (
        ("load_without_mask", r"program \(2, 0, 0\): out of bounds: load of 4 of 16 lanes.*'x'"),
        ("store_without_mask", r"program \(2, 0, 0\): out of bounds: store of 4 of 16 lanes.*'y'"),
        ("one_before", r"program \(0, 0, 0\): out of bounds: load of 1 of 16.*byte -4 of .*'x'"),
        ("without_other", r"program \(2, 0, 0\): load without other=: 4 of 16 lanes"),
        ("programs_overlap", r"program \(1, 0, 0\): race: programs 0 and 1 .* store to .*'y'"),
        ("one_store_twice", r"program \(0, 0, 0\): race: one store hits .*'y' twice"),
        ("loads_what_another_stored", r"program \(1, 0, 0\): race: programs 0 and 1 .*'y'"),
        ("atomic", r"program \(0, 0, 0\): an atomic"),
    ),
)
def test_planted_fault(fault, message):
    with pytest.raises(triton.runtime.errors.InterpreterError, match=f"kernel twice, {message}"):
        run_twice(fault)


@triton.jit
def copy(x, y, n, stride, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i * stride, mask=i < n, other=0.0)
    tl.store(y + i, value, mask=i < n)


def test_gaps_of_a_view_are_out_of_bounds():
    whole = torch.randn(32)
    view, result = whole[::2], torch.empty(16)
    copy[(1,)](view, result, 16, 2, BLOCK=16)
    assert torch.equal(result, view)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="of argument 'x'.*with gaps"):
        copy[(1,)](view, result, 16, 1, BLOCK=16)


@triton.jit
def compute(x, y, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    value = tl.load(x + tl.arange(0, BLOCK))
    if FAULT == "product":
        value = value * value
    elif FAULT == "function":
        value = tl.abs(value)
    elif FAULT == "sum":
        value = value.to(tl.float32) + tl.sum(value, 0).to(tl.float32)
    else:
        value = value.to(tl.float32) * 3.0
    tl.store(y + tl.arange(0, BLOCK), value.to(y.dtype.element_ty))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("fault", ("product", "function", "sum"))
def test_arithmetic_in_16_bits(fault, dtype):
    x = torch.randn(16).to(dtype)
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    message = rf"kernel compute, program \(0, 0, 0\): .*{name} values: widen them"
    with pytest.raises(triton.runtime.errors.InterpreterError, match=message):
        compute[(1,)](x, torch.empty_like(x), FAULT=fault, BLOCK=16)
    y = torch.empty_like(x)
    compute[(1,)](x, y, FAULT="none", BLOCK=16)
    assert torch.equal(y, (x.float() * 3).to(dtype))


@triton.jit
def convert(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(y + i, value.to(y.dtype.element_ty), mask=i < n)


def converted(values, dtype):
    result = torch.empty(values.shape, dtype=dtype)
    block = triton.next_power_of_2(values.numel())
    convert[(1,)](values, result, values.numel(), BLOCK=block)
    return result


def bits(*patterns):
    return torch.tensor(patterns, dtype=torch.int32).view(torch.float32)


def test_rounding_to_bfloat16():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**31), 2**31, (1 << 16,), generator=generator).int()
    # Ties both ways, the carry into the exponent, overflow, zeros, the smallest numbers.
    ties = bits(0x3F808000, 0x3F818000, 0x3F7FFFFF, 0x7F7FFFFF, 0, -(2**31), 1, 0x00008000)
    values = torch.cat([drawn.view(torch.float32), ties, torch.tensor([torch.inf, -torch.inf])])
    values = values[~values.isnan()]
    wanted = values.to(torch.bfloat16)
    assert torch.equal(
        converted(values, torch.bfloat16).view(torch.int16), wanted.view(torch.int16)
    )
    assert converted(torch.tensor([torch.nan]), torch.bfloat16).isnan().all()


def test_every_bfloat16_widens_exactly():
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    assert torch.equal(converted(values, torch.float32).nan_to_num(7), values.float().nan_to_num(7))


def test_float64_is_rounded_to_bfloat16_once():
    # Just above a tie: through float32 it would be the tie, and round down.
    values = torch.tensor(
        [1 + 2**-8 + 2**-40, 1 + 2**-8 - 2**-40, 1 + 3 * 2**-8 - 2**-40], dtype=torch.float64
    )
    wanted = torch.tensor([1 + 2**-7, 1.0, 1 + 2**-7]).bfloat16()
    assert torch.equal(converted(values, torch.bfloat16), wanted)


@triton.jit
def product(a, b, c, N: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(c + i, tl.dot(tl.load(a + i), tl.load(b + i)))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_products_of_matrices_are_widened(dtype):
    a, b = torch.randn(2, 16, 16).to(dtype)
    c = torch.empty(16, 16)
    product[(1,)](a, b, c, N=16)
    torch.testing.assert_close(c, a.float() @ b.float(), rtol=1e-6, atol=1e-5)


@triton.jit
def sum_to(y, n):
    total = 0
    for i in range(n):
        total += i
    tl.store(y, total)


def test_loops_over_run_time_bounds():
    y = torch.zeros(1, dtype=torch.int32)
    sum_to[(1,)](y, 5)
    assert y.item() == 10


@triton.jit
def multiply(y, a, b):
    tl.store(y, a * b)


def test_integer_overflow():
    y = torch.zeros(1, dtype=torch.int32)
    interpreter_guard.check_integer_overflow(True)
    try:
        with pytest.raises(triton.runtime.errors.InterpreterError, match="overflow"):
            multiply[(1,)](y, 1 << 20, 1 << 20)
    finally:
        interpreter_guard.check_integer_overflow(False)


def test_a_process_that_does_not_interpret():
    code = "from effkern.testing import interpreter_guard; interpreter_guard.install()"
    finished = subprocess.run(
        [sys.executable, "-c", f"import os; os.environ.pop('TRITON_INTERPRET'); {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RuntimeError: interpreter_guard.install: " in finished.stderr
    assert "set TRITON_INTERPRET=1 before the process starts" in finished.stderr
