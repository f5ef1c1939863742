"""The operators of the eager path, whose integers travel as one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import effkern
from effkern import _library
from effkern.ops.depthwise_conv2d.operators import BY_BACKEND
from effkern.registry import BACKENDS

if not _library.available():
    pytest.skip(str(_library.load_error()), allow_module_level=True)

from effkern.ops.depthwise_conv2d import eager

WIDE = BY_BACKEND[BACKENDS["cpu"]]
# Every integer differs from every other.
GEOMETRY = (3, 2, 4, 5, 6, 7, 1, 8)
SMALL = st.integers(0, 127)


def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 6, 11, 23), (6, 1, 3, 2), (6,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(st.tuples(*[SMALL] * 8), st.integers(0, 15), st.sampled_from((0, 1)))
def test_unpack_undoes_pack(geometry, extra, backend):
    packed = eager.pack(geometry, extra, backend)
    assert 0 <= packed < 2**63
    assert eager.unpack(packed) == (geometry, extra, backend)


@pytest.mark.parametrize("value", (-1, 128, 2**40))
@pytest.mark.parametrize("position", range(8))
def test_what_does_not_fit_is_not_packed(position, value):
    geometry = (*GEOMETRY[:position], value, *GEOMETRY[position + 1 :])
    assert eager.pack(geometry, 0, 0) is None


@pytest.mark.parametrize("name", sorted(set(BACKENDS) - {"auto", "cpu"}))
def test_other_backends_are_not_packed(name):
    assert eager.pack(GEOMETRY, 0, BACKENDS[name]) is None


@pytest.mark.parametrize("activation", range(7))
def test_forward_is_the_wide_operator(activation):
    input, weight, bias = tensors()
    for optional in (bias, None):
        call = eager.pack(GEOMETRY, activation, BACKENDS["cpu"])
        actual = eager._packed_forward(input, weight, optional, call)
        wanted = WIDE.lean_forward(input, weight, optional, *GEOMETRY, activation, 1)
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("position", range(8))
def test_each_integer_arrives(position):
    input, weight, bias = tensors()
    other = GEOMETRY[position] + (1 if position < 6 else 2)
    geometry = (*GEOMETRY[:position], other, *GEOMETRY[position + 1 :])
    wanted = WIDE.lean_forward(input, weight, bias, *geometry, 0, 1)
    assert torch.equal(eager.forward(input, weight, bias, (*geometry, 0), 1), wanted)
    assert not torch.equal(eager.forward(input, weight, bias, (*GEOMETRY, 0), 1), wanted)


@pytest.mark.parametrize("needs", list(product((False, True), repeat=3)), ids=str)
def test_backward_is_the_wide_operator(needs):
    input, weight, bias = tensors()
    grad = WIDE.lean_forward(input, weight, bias, *GEOMETRY, 0, 1)
    actual = eager._packed_backward(
        grad, input, weight, eager._pack_backward(GEOMETRY, needs, BACKENDS["cpu"])
    )
    wanted = WIDE.lean_backward(grad, input, weight, *GEOMETRY, *needs, 1)
    for name, got, right in zip(("input", "weight", "bias"), actual, wanted, strict=True):
        assert torch.equal(got, right), name


def test_large_numbers_take_the_wide_operator():
    input, weight, bias = (t.requires_grad_() for t in tensors())
    results = []
    for function, groups in ((effkern.functional.depthwise_conv2d, ()), (F.conv2d, (6,))):
        output = function(input, weight, bias, 1, 130, 1, *groups)
        results.append((output, *torch.autograd.grad(output.square().sum(), (input, weight, bias))))
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_a_negative_call_is_refused():
    for operator in (eager._packed_forward, eager._packed_backward):
        input, weight, bias = tensors()
        arguments = (input, weight, bias) if operator is eager._packed_forward else (input,) * 3
        with pytest.raises(RuntimeError, match="call: wanted 0 or more"):
            operator(*arguments, -1)


def test_opcheck():
    input, weight, bias = tensors()
    checks = ("test_schema", "test_faketensor")
    forward = getattr(torch.ops.effkern, eager.PACKED_FORWARD).default
    torch.library.opcheck(
        forward, (input, weight, bias, eager.pack(GEOMETRY, 3, 1)), test_utils=checks
    )
    grad = forward(input, weight, bias, eager.pack(GEOMETRY, 0, 1))
    backward = getattr(torch.ops.effkern, eager.PACKED_BACKWARD).default
    for needs in range(8):
        call = eager.pack(GEOMETRY, needs, 1)
        torch.library.opcheck(backward, (grad, input, weight, call), test_utils=checks)


@pytest.mark.parametrize("value", (True, 1.0, (1, True), (1.0, 1)))
@pytest.mark.parametrize("argument", ("stride", "dilation"))
def test_what_equals_an_int_is_no_int(argument, value):
    input, weight, bias = tensors()
    for right in (1, (1, 1)):
        effkern.functional.depthwise_conv2d(input, weight, bias, **{argument: right})
    with pytest.raises(TypeError, match=f"{argument}: wanted an int or a pair of ints"):
        effkern.functional.depthwise_conv2d(input, weight, bias, **{argument: value})
