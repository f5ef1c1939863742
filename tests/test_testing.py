"""The tools that the other tests trust: they have to fail where they should."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from effkern.ops.depthwise_conv2d import ACTIVATIONS
from effkern.reference.depthwise_conv2d import depthwise_conv2d as reference
from effkern.testing import extended_precision
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output
from effkern.testing.memory import heap_growth, peak_memory
from effkern.testing.poison import SentinelBuffer, poisoned_memory
from effkern.testing.problems import DEPTHWISE_CONV2D_CASES, LAYOUTS, with_layout
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.tolerances import assert_within_bound, rounding_units

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(params=DTYPES, ids=str)
def expected(request):
    input, weight, bias, _ = Case().tensors(request.param)
    return expected_output(Case(), input, weight, bias)


class TestBound:
    def test_accepts_torch_itself(self, expected):
        expected.check(expected.torch_result, "output")

    @pytest.mark.parametrize("index", ((0, 0, 0, 0), (1, 4, 8, 9)))
    @pytest.mark.parametrize("direction", (-1, 1))
    def test_rejects_one_element_that_is_a_little_off(self, expected, index, direction):
        wrong = expected.torch_result.clone()
        reference = torch.as_tensor(np.asarray(expected.reference, dtype=np.float64))
        # Beyond twice the error that any of these dtypes has here, plus one.
        unit = rounding_units(reference, wrong.dtype, expected.scale)[index]
        value = float(reference[index]) + direction * 8 * unit
        wrong[index] = value
        with pytest.raises(AssertionError, match="output: element .*wanted .*got "):
            expected.check(wrong, "output")

    @pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
    def test_rejects_what_is_not_finite(self, expected, value):
        wrong = expected.torch_result.clone()
        wrong[1, 2, 3, 4] = value
        with pytest.raises(AssertionError, match=r"element \(1, 2, 3, 4\) .* 1 of 900 elements"):
            expected.check(wrong, "output")

    def test_errors_do_not_hide_behind_larger_values(self):
        # A channel of large values with errors to match, and a wrong channel of small ones.
        reference = torch.tensor([1e6, 1e-3], dtype=torch.float64)
        scale = reference.clone()
        torch_result = torch.tensor([1e6 + 0.25, 1e-3])
        assert_within_bound(torch_result, torch_result, reference, scale)
        with pytest.raises(AssertionError):
            assert_within_bound(torch.tensor([1e6, 1.1e-3]), torch_result, reference, scale)

    def test_rejects_accumulation_in_16_bits(self):
        terms = torch.rand(4096, dtype=torch.float64).to(torch.bfloat16)
        reference = terms.double().sum().reshape(1)
        in_16_bits = torch.zeros((), dtype=torch.bfloat16)
        for term in terms:
            in_16_bits += term
        good = terms.float().sum().to(torch.bfloat16).reshape(1)
        assert_within_bound(good, good, reference, reference)
        with pytest.raises(AssertionError):
            assert_within_bound(in_16_bits.reshape(1), in_16_bits.reshape(1), reference, reference)

    def test_overflow_has_to_be_infinite(self):
        reference = torch.tensor([1e5, 1.0], dtype=torch.float64)
        good = reference.half()
        assert_within_bound(good, good, reference)
        with pytest.raises(AssertionError, match=r"element \(0,\)"):
            assert_within_bound(torch.tensor([65504.0, 1.0]).half(), good, reference)

    def test_shape_and_dtype(self, expected):
        with pytest.raises(AssertionError, match=r"wanted shape \(2, 5, 9, 10\), got \(2, 5, 9\)"):
            expected.check(expected.torch_result[..., 0], "output")
        other = torch.float32 if expected.torch_result.dtype != torch.float32 else torch.float64
        with pytest.raises(AssertionError, match="wanted torch.*, got torch"):
            expected.check(expected.torch_result.to(other), "output")

    def test_empty(self):
        empty = torch.empty(0, 3)
        assert_within_bound(empty, empty, empty.double())


@pytest.mark.parametrize("case", DEPTHWISE_CONV2D_CASES, ids=lambda case: case.id)
def test_two_references_agree(case):
    input, weight, bias, grad_output = case.tensors(torch.float64)
    wide = [None if t is None else extended_precision.widened(t) for t in (input, weight, bias)]
    expected = expected_output(case, input, weight, bias)
    assert expected.reference.dtype == np.longdouble
    assert expected.torch_result.shape == case.output_shape
    forward = extended_precision.forward(case, *wide)
    np.testing.assert_allclose(forward.astype(float), expected.torch_result, rtol=0, atol=1e-11)
    for gradient in expected_gradients(case, grad_output, input, weight, bias):
        np.testing.assert_allclose(
            gradient.reference.astype(float), gradient.torch_result, rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("name", ACTIVATIONS, ids=str)
def test_activations_agree_with_torch(name):
    z = torch.linspace(-9, 9, 1001, dtype=torch.float64)[None, None, None].requires_grad_()
    output = reference(z, torch.ones(1, 1, 1, 1, dtype=torch.float64), activation=name)
    value, derivative = extended_precision.activation(name, extended_precision.widened(z))
    np.testing.assert_allclose(value.astype(float), output.detach(), rtol=0, atol=1e-14)
    (grad,) = torch.autograd.grad(output.sum(), z)
    # torch's derivatives lose some digits to cancellation; at the corners they are a choice.
    difference = np.abs(derivative.astype(float) - grad.numpy())
    assert (difference > 1e-13).sum() <= 1


def test_case_ids_are_unique():
    assert len({case.id for case in DEPTHWISE_CONV2D_CASES}) == len(DEPTHWISE_CONV2D_CASES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    tensor = torch.randn(3, 4, 5, 6)
    result = with_layout(tensor, layout)
    assert result.shape == tensor.shape
    if "expanded" in layout:
        assert 0 in result.stride()
    else:
        assert torch.equal(result, tensor)
        assert (result.stride() == tensor.stride()) == (layout == "contiguous")


def fresh_memory_of_the_shim(size):
    """What aoti_torch_empty_strided returns: the allocation of operators on the stable ABI."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    handle, data = ctypes.c_void_p(), ctypes.c_void_p()
    sizes, strides = (ctypes.c_int64 * 1)(size), (ctypes.c_int64 * 1)(1)
    dtype, cpu = library.aoti_torch_dtype_float32(), library.aoti_torch_device_type_cpu()
    assert not library.aoti_torch_empty_strided(
        ctypes.c_int64(1), sizes, strides, dtype, cpu, 0, ctypes.byref(handle)
    )
    assert not library.aoti_torch_get_data_ptr(handle, ctypes.byref(data))
    values = ctypes.cast(data, ctypes.POINTER(ctypes.c_float))
    result = np.ctypeslib.as_array(values, (size,)).copy()
    assert not library.aoti_torch_delete_tensor_object(handle)
    return result


@pytest.mark.parametrize("size", (1, 3, 17, 250, 1000, 100_000, 5_000_000))
def test_poisoned_memory_is_nan(size):
    filled = []
    for _ in range(10):
        with poisoned_memory():
            filled.append(np.isnan(fresh_memory_of_the_shim(size)).all())
            filled += [torch.empty(size, dtype=dtype).isnan().all().item() for dtype in DTYPES]
    # Small blocks may come from a cache that malloc does not fill.
    assert sum(filled) >= (len(filled) if size >= 1000 else 0.8 * len(filled))


class TestSentinels:
    @pytest.mark.parametrize("offset", range(17))
    def test_offset_and_values(self, offset):
        source = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
        with SentinelBuffer(source, offset, guard=64) as buffer:
            assert torch.equal(buffer.view, source)
            assert buffer.view.stride() == source.stride()
            assert buffer.view.storage_offset() == 64 + offset

    @pytest.mark.parametrize("position", (-64, -1, 0, 119, 120, 183))
    def test_a_write_is_found(self, position):
        buffer = SentinelBuffer(torch.randn(2, 3, 4, 5), offset=3)
        buffer.assert_unchanged()
        whole = buffer.view.as_strided((1,), (1,), buffer.view.storage_offset() + position)
        whole.fill_(7.0)
        with pytest.raises(AssertionError, match="grad: .* bytes were overwritten"):
            buffer.assert_unchanged("grad")

    def test_sentinels_are_nan(self):
        view = SentinelBuffer(torch.zeros(4)).view
        around = view.as_strided((6,), (1,), view.storage_offset() - 1)
        assert around.isnan().tolist() == [True, False, False, False, False, True]


def test_heap_growth_finds_a_small_leak():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    assert heap_growth(lambda: libc.malloc(ctypes.c_size_t(24)), 1000) >= 24
    assert heap_growth(lambda: torch.empty(1000), 1000) < 4


def test_peak_memory_sees_all_pages_that_were_touched():
    size = 64 << 20
    assert size * 0.95 < peak_memory(lambda: bytearray(b"1") * size) < size * 1.1
    assert peak_memory(lambda: None) < size * 0.05
