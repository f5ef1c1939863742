"""depthwise_conv2d against PyTorch in float64, on every backend that is present."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from effkern.functional import depthwise_conv2d
from effkern.ops.depthwise_conv2d import ACTIVATIONS
from effkern.reference.depthwise_conv2d import depthwise_conv2d as reference
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output, without_kinks
from effkern.testing.problems import DEPTHWISE_CONV2D_CASES, LAYOUTS, with_layout
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.tolerances import assert_within_bound

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
GRADIENTS = ("grad_input", "grad_weight", "grad_bias")

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
all_layouts = pytest.mark.parametrize("layout", LAYOUTS)
all_cases = pytest.mark.parametrize("case", DEPTHWISE_CONV2D_CASES, ids=lambda case: case.id)
all_activations = pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)

# One case for every kind of inner loop: what a property has to hold for, if not for all cases.
REPRESENTATIVE = (
    Case(),
    Case(channels=17, height=11, width=19, kernel=(7, 7), padding=3),
    Case(channels=16, stride=(2, 2), kernel=(5, 5), padding=((1, 2), (2, 1)), multiplier=2),
    Case(dilation=(2, 3), kernel=(3, 2), padding=(3, 1), height=13, bias=False),
    Case(channels=3, kernel=(31, 31), padding=15, height=15, width=18),
)
representative = pytest.mark.parametrize("case", REPRESENTATIVE, ids=lambda case: case.id)


def gradients(case, grad_output, input, weight, bias, activation=None):
    """The gradients of input, weight and, if there is one, bias."""
    leaves = [t.detach().requires_grad_() for t in (input, weight, bias) if t is not None]
    output = depthwise_conv2d(*leaves, **case.kwargs, activation=activation)
    return torch.autograd.grad(output, leaves, grad_output)


@all_dtypes
@all_layouts
@all_cases
def test_forward(backend, case, layout, dtype):
    input, weight, bias, _ = case.tensors(dtype, backend.device, layout)
    actual = depthwise_conv2d(input, weight, bias, **case.kwargs)
    expected_output(case, input, weight, bias).check(actual, "output")


@all_dtypes
@all_layouts
@all_cases
def test_gradients(backend, case, layout, dtype):
    input, weight, bias, grad_output = case.tensors(dtype, backend.device, layout)
    actual = gradients(case, grad_output, input, weight, bias)
    expected = expected_gradients(case, grad_output, input, weight, bias)
    for name, got, wanted in zip(GRADIENTS, actual, expected, strict=False):
        wanted.check(got, name)


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
@all_activations
@representative
def test_activation(backend, case, activation, layout, dtype):
    input, weight, bias, grad_output = case.tensors(dtype, backend.device, layout)
    actual = depthwise_conv2d(input, weight, bias, **case.kwargs, activation=activation)
    expected_output(case, input, weight, bias, activation).check(actual, "output")

    grad_output = without_kinks(case, grad_output, input, weight, bias, activation)
    actual = gradients(case, grad_output, input, weight, bias, activation)
    expected = expected_gradients(case, grad_output, input, weight, bias, activation)
    for name, got, wanted in zip(GRADIENTS, actual, expected, strict=False):
        wanted.check(got, name)


@all_activations
def test_activation_far_from_zero(backend, activation):
    # Saturated on both sides: exp overflows, erf is exactly one, the hardswish is flat.
    input = torch.linspace(-120, 120, 481, device=backend.device).reshape(1, 1, 1, 481)
    weight = torch.ones(1, 1, 1, 1, device=backend.device)
    case = Case(1, 1, 1, 481, (1, 1), padding=0, bias=False)
    actual = depthwise_conv2d(input, weight, activation=activation)
    expected_output(case, input, weight, None, activation).check(actual, "output")
    (grad,) = gradients(case, torch.ones_like(input), input, weight, None, activation)[:1]
    grad_output = without_kinks(case, torch.ones_like(input), input, weight, None, activation)
    expected = expected_gradients(case, grad_output, input, weight, None, activation)[0]
    expected.check(grad * grad_output, "grad_input")


@all_dtypes
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("kernel", (3, 7, 13))
@all_activations
def test_nan_and_infinity_are_neither_lost_nor_spread(backend, activation, kernel, value, dtype):
    input = torch.zeros(1, 9, 19, 37, dtype=dtype, device=backend.device)
    input[0, 4, 9, 18] = value
    weight = torch.ones(9, 1, kernel, kernel, dtype=dtype, device=backend.device)
    actual = depthwise_conv2d(input, weight, padding=kernel // 2, activation=activation)
    # In float64: with AVX-512 torch's gelu of infinity is NaN in the other types.
    exact = reference(input.double(), weight.double(), padding=kernel // 2, activation=activation)
    torch.testing.assert_close(actual, exact.to(dtype), equal_nan=True, rtol=0, atol=0)


# 13x13: transposed in shared memory; 27x27: copied as planes.
@pytest.mark.parametrize("value", (torch.nan, torch.inf))
@pytest.mark.parametrize("kernel", (13, 27))
def test_nan_and_infinity_are_not_spread_in_channels_last(backend, kernel, value):
    input = torch.zeros(1, 24, 13, 25, dtype=torch.bfloat16, device=backend.device)
    input[0, 17, 4, 18] = value
    input = input.contiguous(memory_format=torch.channels_last)
    weight = torch.ones(24, 1, kernel, kernel, dtype=torch.bfloat16, device=backend.device)
    actual = depthwise_conv2d(input, weight, padding=kernel // 2)
    wanted = reference(input, weight, padding=kernel // 2)
    torch.testing.assert_close(actual, wanted, equal_nan=True, rtol=0, atol=0)


# Pixels that some taps do not meet: zeros beside the image are no part of their sums.
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("value", (torch.nan, torch.inf))
@pytest.mark.parametrize("kernel", (7, 13))
def test_weight_gradient_of_an_infinite_pixel(backend, kernel, value, dtype):
    input = torch.zeros(1, 3, 19, 37, dtype=dtype, device=backend.device)
    input[0, 1, 18, 36] = value
    weight = torch.ones(3, 1, kernel, kernel, dtype=dtype, device=backend.device)
    weight.requires_grad_()
    output = depthwise_conv2d(input, weight, padding=kernel // 2)
    (grad,) = torch.autograd.grad(output, weight, torch.ones_like(output))
    met = torch.zeros_like(grad)
    met[1, 0, kernel // 2 :, kernel // 2 :] = value
    torch.testing.assert_close(grad, met, equal_nan=True, rtol=0, atol=0)


@all_dtypes
@pytest.mark.parametrize("weight_layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("input_layout", ("contiguous", "channels_last", "transposed", "sliced"))
@representative
def test_memory_format_of_output(backend, case, input_layout, weight_layout, dtype):
    input, weight, bias, _ = case.tensors(dtype, backend.device)
    input, weight = with_layout(input, input_layout), with_layout(weight, weight_layout)
    actual = depthwise_conv2d(input, weight, bias, **case.kwargs)
    padded = F.pad(input, (case.borders[2], case.borders[3], *case.borders[:2]))
    if case.borders[0] == case.borders[1]:
        padded, padding = input, case.borders[::2]
    else:
        padding = 0
    wanted = F.conv2d(padded, weight, bias, case.stride, padding, case.dilation, case.channels)
    assert actual.stride() == wanted.stride()


@all_dtypes
@pytest.mark.parametrize("activation", (None, "silu"))
@representative
def test_unbatched(backend, case, activation, dtype):
    input, weight, bias, grad_output = case.tensors(dtype, backend.device)
    batched = depthwise_conv2d(input[:1], weight, bias, **case.kwargs, activation=activation)
    actual = depthwise_conv2d(input[0], weight, bias, **case.kwargs, activation=activation)
    assert actual.shape == case.output_shape[1:]
    assert torch.equal(actual, batched[0])
    wanted = gradients(case, grad_output[:1], input[:1], weight, bias, activation)
    actual = gradients(case, grad_output[0], input[0], weight, bias, activation)
    assert torch.equal(actual[0], wanted[0][0])
    for got, want in zip(actual[1:], wanted[1:], strict=True):
        assert torch.equal(got, want)


@all_dtypes
@all_activations
@pytest.mark.parametrize("multiplier", (1, 2))
def test_empty_batch(backend, multiplier, activation, dtype):
    case = Case(batch=0, multiplier=multiplier)
    input, weight, bias, grad_output = case.tensors(dtype, backend.device)
    actual = depthwise_conv2d(input, weight, bias, **case.kwargs, activation=activation)
    assert actual.shape == case.output_shape and actual.dtype == dtype
    grad_input, grad_weight, grad_bias = gradients(
        case, grad_output, input, weight, bias, activation
    )
    assert grad_input.shape == input.shape
    # Fresh memory is NaN here, so these have been written.
    assert torch.equal(grad_weight, torch.zeros_like(weight))
    assert torch.equal(grad_bias, torch.zeros_like(bias))


@pytest.mark.parametrize("needs", list(product((False, True), repeat=3))[1:], ids=str)
@pytest.mark.parametrize("activation", (None, "relu", "gelu"))
def test_only_wanted_gradients(backend, activation, needs):
    case = REPRESENTATIVE[2]
    *tensors, grad_output = case.tensors(torch.float32, backend.device)
    grad_output = without_kinks(case, grad_output, *tensors, activation)
    expected = expected_gradients(case, grad_output, *tensors, activation)
    leaves = [t.requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
    output = depthwise_conv2d(*leaves, **case.kwargs, activation=activation)
    output.backward(grad_output)
    for name, leaf, need, wanted in zip(GRADIENTS, leaves, needs, expected, strict=True):
        if need:
            wanted.check(leaf.grad, name)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_large_reductions_in_16_bits(backend, layout, dtype):
    # Adding up in 16 bits would stop growing long before the end of these sums: the result has to
    # be as good as the exact one, rounded.
    case = Case(channels=2, height=67, width=65, kernel=(51, 51), padding=25)
    if backend.emulated:
        case = Case(channels=2, height=31, width=31, kernel=(17, 5), padding=(8, 2))
    input, weight, bias, grad_output = (
        t.abs() / 32 for t in case.tensors(dtype, backend.device, layout)
    )
    output = depthwise_conv2d(input, weight, bias, **case.kwargs)
    expected = expected_output(case, input, weight, bias)
    rounded = expected.reference.to(dtype)
    assert_within_bound(output, rounded, expected.reference, expected.scale, what="output")
    grads = gradients(case, grad_output, input, weight, bias)
    expected = expected_gradients(case, grad_output, input, weight, bias)
    for name, got, wanted in zip(GRADIENTS, grads, expected, strict=True):
        wanted.check(got, name)


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@representative
def test_deterministic(backend, case, layout, dtype):
    tensors = case.tensors(dtype, backend.device, layout)
    *arguments, grad_output = tensors
    outputs = [depthwise_conv2d(*arguments, **case.kwargs, activation="silu") for _ in range(2)]
    assert torch.equal(*outputs)
    first, second = (gradients(case, grad_output, *arguments, "silu") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
@pytest.mark.parametrize(
    "case",
    (
        Case(batch=3, channels=40, height=56, width=57, kernel=(7, 7), padding=3),
        Case(batch=1, channels=5, height=112, width=112, stride=(2, 2)),
        Case(batch=2, channels=3, height=40, width=37, kernel=(31, 31), padding=15),
    ),
    ids=lambda case: case.id,
)
def test_number_of_threads_changes_nothing(backend, case, layout, dtype):
    if backend.emulated:
        pytest.skip("runs on one thread, whatever torch's number of threads")
    *arguments, grad_output = case.tensors(dtype, backend.device, layout)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        output = depthwise_conv2d(*arguments, **case.kwargs, activation="gelu")
        results.append((output, *gradients(case, grad_output, *arguments, "gelu")))
    for other in results[1:]:
        for name, a, b in zip(("output", *GRADIENTS), results[0], other, strict=True):
            assert torch.equal(a, b), name


GRADCHECK_CASES = (
    Case(batch=2, channels=2, height=4, width=5),
    Case(batch=1, channels=2, height=5, width=4, kernel=(2, 3), stride=(2, 1), multiplier=2),
    Case(batch=1, channels=1, height=5, width=6, padding=((0, 1), (2, 0)), dilation=(2, 1)),
)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@all_activations
@pytest.mark.parametrize("case", GRADCHECK_CASES, ids=lambda case: case.id)
def test_gradcheck(backend, case, activation, layout):
    *tensors, _ = case.tensors(torch.float64, backend.device, layout)
    leaves = [t.requires_grad_() for t in tensors]

    def function(*arguments):
        return depthwise_conv2d(*arguments, **case.kwargs, activation=activation)

    # Element by element, where thousands of calls take no time.
    assert torch.autograd.gradcheck(function, leaves, fast_mode=backend.slow)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("create_graph_for", (0, 1, 2))
def test_third_derivatives(backend, create_graph_for):
    case = GRADCHECK_CASES[1]
    *tensors, _ = case.tensors(torch.float64, backend.device)

    def third(function):
        leaves = [t.detach().requires_grad_() for t in tensors]
        value = function(*leaves, **case.kwargs, activation="gelu").square().sum()
        for _ in range(2):
            grad = torch.autograd.grad(value, leaves[create_graph_for], create_graph=True)[0]
            value = grad.pow(3).sum()
        return torch.autograd.grad(value, leaves)

    torch.testing.assert_close(third(depthwise_conv2d), third(reference), rtol=1e-9, atol=1e-9)
