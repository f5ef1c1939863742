"""depthwise_conv2d_fused: prologue, sums, gradients, operator; against extended precision."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import effkern
from effkern import _C, _library
from effkern.functional import depthwise_conv2d, depthwise_conv2d_fused
from effkern.ops.depthwise_conv2d import ACTIVATIONS
from effkern.ops.depthwise_conv2d.fused import SUMS
from effkern.reference.depthwise_conv2d import depthwise_conv2d_fused as reference
from effkern.testing import extended_precision
from effkern.testing.extended_precision import widened
from effkern.testing.poison import poisoned_memory
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.problems import with_layout
from effkern.testing.tolerances import assert_within_bound

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced")

# Sizes below, at and above vectors and tiles, for every kernel of the planner.
CASES = (
    Case(),
    Case(batch=0),
    Case(bias=False, channels=1),
    Case(channels=8, height=4, width=7),
    Case(channels=17, height=11, width=19, kernel=(7, 7), padding=3),
    Case(channels=33, height=7, width=7, kernel=(5, 5), padding=2),
    Case(channels=64, height=14, width=14, stride=(2, 2)),
    Case(channels=35, height=6, width=9, stride=(2, 2), kernel=(5, 5), padding=((1, 2), (2, 1))),
    Case(channels=9, height=16, width=33, multiplier=2),
    Case(channels=4, dilation=(2, 3), kernel=(3, 2), padding=(3, 1), height=13, bias=False),
    Case(channels=3, kernel=(31, 31), padding=15, height=15, width=18),
    Case(batch=1, channels=2, height=3, width=509),
    Case(batch=1, channels=16, height=3, width=300),
    Case(batch=1, channels=2, height=251, width=3),
    Case(batch=3, channels=65, height=1, width=1),
    Case(stride=(5, 7), kernel=(2, 3), padding=5, height=13, width=17, channels=12),
    # More rows than one block of any kernel.
    Case(batch=1, channels=40, height=65, width=12),
)

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
all_layouts = pytest.mark.parametrize("layout", LAYOUTS)
all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.fixture(autouse=True)
def kernels():
    """The kernels, or an error; fresh memory is full of NaN."""
    with poisoned_memory("cpu"), effkern.backend("cpu"):
        yield


def wide_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_channel(case, dtype, seed=7):
    """A scale, which is negative somewhere, and a shift that no padding can be mistaken for."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.randn(2, case.channels, generator=generator, dtype=torch.float64)
    return scale.to(wide_dtype(dtype)), (2 + shift).to(wide_dtype(dtype))


def check_output(actual, case, tensors, hooks):
    """The convolution of the exact prologue, by the bound of effkern.testing.tolerances."""
    input, weight, bias = tensors
    scale, shift = hooks.get("input_scale"), hooks.get("input_shift")
    source, magnitude = widened(input), np.abs(widened(input))
    if scale is not None:
        source = source * widened(scale)[:, None, None]
        magnitude = np.abs(source)
    if shift is not None:
        source = source + widened(shift)[:, None, None]
        magnitude = magnitude + np.abs(widened(shift))[:, None, None]
    source = extended_precision.activation(hooks.get("input_activation"), source)[0]
    wide_bias = None if bias is None else widened(bias)
    pre = extended_precision.forward(case, source, widened(weight), wide_bias)
    exact = extended_precision.activation(hooks.get("activation"), pre)[0]
    scale_of_terms = extended_precision.forward(
        case,
        np.maximum(magnitude, np.abs(source)),
        np.abs(widened(weight)),
        None if wide_bias is None else np.abs(wide_bias),
    )
    wide_dtype_of = wide_dtype(input.dtype)
    wide = [None if t is None else t.to(wide_dtype_of) for t in tensors]
    torch_hooks = {**hooks, "sums": None}
    torch_result = reference(*wide, **case.kwargs, **torch_hooks).to(input.dtype)
    assert_within_bound(actual, torch_result, exact, scale_of_terms, what="output")


def check_sums(output, actual, sums):
    """Sums of the numbers that were returned, as exact as torch's."""
    wide = output.to(wide_dtype(output.dtype))
    over = (2, 3) if sums == "spatial" else (0, 2, 3)
    for power, got in zip((1, 2), actual, strict=False):
        terms = widened(output) ** power
        assert_within_bound(
            got,
            (wide**power).sum(over),
            terms.sum(over),
            np.abs(terms).sum(over),
            what=f"sum of powers {power}",
        )


@all_dtypes
@all_layouts
@pytest.mark.parametrize(
    "prologue, sums", ((False, "channel"), (False, "spatial"), (True, "channel"))
)
@all_cases
def test_results(case, prologue, sums, layout, dtype):
    input, weight, bias, _ = case.tensors(dtype, "cpu", layout)
    hooks = {"activation": "hardswish"}
    if prologue:
        hooks["input_scale"], hooks["input_shift"] = per_channel(case, dtype)
        hooks["input_activation"] = "silu"
    output, *rest = depthwise_conv2d_fused(input, weight, bias, **case.kwargs, **hooks, sums=sums)
    assert len(rest) == (1 if sums == "spatial" else 2)
    assert all(t.is_contiguous() for t in rest)
    check_sums(output, rest, sums)
    plain = depthwise_conv2d(input, weight, bias, **case.kwargs, activation="hardswish")
    assert output.stride() == plain.stride()
    if prologue:
        check_output(output, case, (input, weight, bias), hooks)
    else:
        assert torch.equal(output, plain)


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)
@pytest.mark.parametrize("given", ("activation", "scale", "scale_shift"))
def test_each_prologue(given, activation, layout, dtype):
    case = Case(channels=17, height=11, width=13)
    input, weight, bias, _ = case.tensors(dtype, "cpu", layout)
    scale, shift = per_channel(case, dtype)
    hooks = {"input_activation": activation}
    if given != "activation":
        hooks["input_scale"] = scale
    if given == "scale_shift":
        # Every other element of a longer one.
        hooks["input_shift"] = torch.stack((shift, torch.full_like(shift, torch.nan)), 1)[:, 0]
    output = depthwise_conv2d_fused(input, weight, bias, padding=1, **hooks)
    check_output(output, case, (input, weight, bias), hooks)


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("offset", (0.0, 100.0))
@pytest.mark.parametrize("shape", ((1, 16, 112, 112), (16, 40, 14, 15), (64, 3, 7, 7)), ids=str)
def test_long_sums(shape, offset, layout, dtype):
    """Thousands of terms, all of one sign in half of the cases."""
    input = torch.randn(shape, generator=torch.Generator().manual_seed(3)) + offset
    input = with_layout(input.to(dtype), layout)
    weight = torch.full((shape[1], 1, 3, 3), 0.25, dtype=dtype)
    for sums in ("channel", "spatial"):
        output, *rest = depthwise_conv2d_fused(input, weight, padding=1, sums=sums)
        check_sums(output, rest, sums)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
@pytest.mark.parametrize("prologue", (False, True), ids=("no_prologue", "prologue"))
@pytest.mark.parametrize("sums", ("channel", "spatial"))
@pytest.mark.parametrize("kernel", (3, 4, 7))
def test_threads_do_not_change_a_bit(kernel, sums, prologue, layout):
    case = Case(batch=3, channels=48, height=29, width=31, kernel=(kernel,) * 2, padding=3)
    input, weight, bias, _ = case.tensors(torch.float32, "cpu", layout)
    hooks = {"activation": "relu", "sums": sums}
    if prologue:
        hooks["input_scale"], hooks["input_shift"] = per_channel(case, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(depthwise_conv2d_fused(input, weight, bias, **case.kwargs, **hooks))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        for first, other in zip(results[0], others, strict=True):
            assert torch.equal(first, other)


def test_nan_stays_in_its_channel_and_padding_is_zero():
    input = torch.zeros(2, 20, 6, 9)
    input[1, 13, 2, 4] = torch.nan
    scale, shift = torch.ones(20), torch.zeros(20)
    # Of a padding that went through the prologue.
    scale[5] = torch.nan
    weight = torch.ones(20, 1, 3, 3)
    for layout in ("contiguous", "channels_last"):
        output, sum, squares = depthwise_conv2d_fused(
            with_layout(input, layout),
            weight,
            padding=4,
            input_scale=scale,
            input_shift=shift,
            sums="channel",
        )
        bad = torch.zeros(20, dtype=torch.bool)
        bad[[5, 13]] = True
        assert torch.equal(sum.isnan(), bad) and torch.equal(squares.isnan(), bad)
        # The outermost rows meet zeros only, whatever the scale.
        assert torch.equal(output[:, 5, :2], torch.zeros(2, 2, 15))
        assert not output[0, bad.logical_not()].isnan().any()


def leaves_of(case, dtype, layout="contiguous"):
    input, weight, bias, _ = case.tensors(dtype, "cpu", layout)
    scale, shift = per_channel(case, dtype)
    return [t.requires_grad_() for t in (input, weight, bias, scale, shift) if t is not None]


GRADIENT_CASES = (
    Case(batch=2, channels=2, height=4, width=5),
    Case(
        batch=2,
        channels=2,
        height=5,
        width=4,
        stride=(2, 1),
        multiplier=2,
        padding=((1, 0), (0, 2)),
    ),
)
HOOKS = (
    {"activation": "silu", "input_activation": "gelu", "sums": "channel"},
    {"activation": "relu", "input_activation": "hardswish", "sums": "spatial"},
    {"activation": None, "input_activation": "relu6", "sums": "channel"},
    {"activation": "relu6", "input_activation": None, "sums": "channel"},
    {"activation": "gelu_tanh", "input_activation": "silu", "sums": None},
)


@pytest.mark.parametrize("hooks", HOOKS, ids=str)
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=lambda case: case.id)
def test_gradcheck(case, hooks):
    def function(input, weight, bias, scale, shift):
        return depthwise_conv2d_fused(
            input, weight, bias, **case.kwargs, **hooks, input_scale=scale, input_shift=shift
        )

    leaves = leaves_of(case, torch.float64)
    assert torch.autograd.gradcheck(function, leaves, nondet_tol=0.0)
    if hooks["activation"] == "silu":
        assert torch.autograd.gradgradcheck(function, leaves)


def fused_gradients(function, leaves, hooks, case, weights):
    input, weight, bias, scale, shift = leaves
    results = function(
        input, weight, bias, **case.kwargs, **hooks, input_scale=scale, input_shift=shift
    )
    results = results if isinstance(results, tuple) else (results,)
    total = sum((r * w.to(r.dtype)).sum() for r, w in zip(results, weights, strict=False))
    return torch.autograd.grad(total, leaves)


# One unit of 16 bits in the recomputed input and one in the gradient of the output.
GRADIENT_TOLERANCES = {
    torch.float32: 1e-5,
    torch.float64: 1e-13,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("hooks", HOOKS[::2], ids=str)
def test_gradients(hooks, layout, dtype):
    case = Case(channels=17, height=9, width=12)
    leaves = leaves_of(case, dtype, layout)
    weights = [torch.randn(shape) for shape in (case.output_shape, (17,), (17,))]
    actual = fused_gradients(depthwise_conv2d_fused, leaves, hooks, case, weights)
    wide = [t.detach().double().requires_grad_() for t in leaves]
    wanted = fused_gradients(reference, wide, hooks, case, weights)
    for leaf, got, exact in zip(leaves, actual, wanted, strict=True):
        assert got.dtype == leaf.dtype and got.shape == leaf.shape
        error = (got.double() - exact).norm() / exact.norm()
        assert error <= GRADIENT_TOLERANCES[dtype]


@pytest.mark.parametrize("needed", range(5))
def test_gradient_of_one_argument_alone(needed):
    case = Case()
    leaves = leaves_of(case, torch.float64)
    weights = [torch.randn(shape, dtype=torch.float64) for shape in (case.output_shape, (5,), (5,))]
    all_of_them = fused_gradients(depthwise_conv2d_fused, leaves, HOOKS[0], case, weights)
    only = [t.detach() for t in leaves]
    only[needed].requires_grad_()
    input, weight, bias, scale, shift = only
    results = depthwise_conv2d_fused(
        input, weight, bias, **case.kwargs, **HOOKS[0], input_scale=scale, input_shift=shift
    )
    total = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    (grad,) = torch.autograd.grad(total, only[needed])
    assert torch.equal(grad, all_of_them[needed])


def test_gradient_through_the_sums_alone():
    input, weight = torch.randn(2, 9, 5, 6, dtype=torch.float64), torch.randn(9, 1, 3, 3).double()
    weight.requires_grad_()
    _, sum, squares = depthwise_conv2d_fused(input, weight, sums="channel")
    (actual,) = torch.autograd.grad((sum * squares).sum(), weight)
    _, sum, squares = reference(input, weight, sums="channel")
    (wanted,) = torch.autograd.grad((sum * squares).sum(), weight)
    torch.testing.assert_close(actual, wanted)


def operator_arguments(dtype, layout, requires_grad):
    case = Case(channels=6, multiplier=2, stride=(2, 1), padding=((0, 1), (2, 1)))
    leaves = [t.detach().requires_grad_(requires_grad) for t in leaves_of(case, dtype, layout)]
    for scale, shift, activation, pre, sums in (
        (*leaves[3:], 3, 1, 1),
        (leaves[3], None, 1, 0, 2),
        (None, None, 0, 4, 0),
    ):
        yield (*leaves[:3], scale, shift, *case.geometry, activation, pre, sums, 1)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=lambda dtype: str(dtype)[6:])
def test_opcheck(dtype, layout):
    for arguments in operator_arguments(dtype, layout, dtype == torch.float32):
        torch.library.opcheck(torch.ops.effkern.depthwise_conv2d_fused.default, arguments)
        detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.library.opcheck(
            torch.ops.effkern._depthwise_conv2d_fused.default,
            detached,
            test_utils=("test_schema", "test_faketensor"),
        )


# The stable ABI never compares a kernel's parameters with its schema.
@pytest.mark.parametrize("name", ("depthwise_conv2d_fused", "_depthwise_conv2d_fused"))
@pytest.mark.parametrize(
    "change", ({}, {"stride": (3, 3)}, {"padding": ((4, 8), (6, 7))}, {"dilation": (3, 2)}), ids=str
)
def test_each_integer_of_the_operator(change, name):
    distinct = {"stride": (2, 3), "padding": ((4, 5), (6, 7)), "dilation": (1, 2)}
    case = Case(channels=3, height=23, width=29, kernel=(3, 4), multiplier=2, **(distinct | change))
    input, weight, bias, _ = case.tensors(torch.float64)
    scale, shift = per_channel(case, torch.float64)
    for activation, pre, sums in product(("silu", "relu"), ("hardswish", None), SUMS):
        codes = ACTIVATIONS[activation], ACTIVATIONS[pre], SUMS[sums]
        results = getattr(torch.ops.effkern, name)(
            input, weight, bias, scale, shift, *case.geometry, *codes, 1
        )
        hooks = {"activation": activation, "input_activation": pre, "sums": sums}
        wanted = reference(
            input, weight, bias, **case.kwargs, **hooks, input_scale=scale, input_shift=shift
        )
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for got, exact in zip(results, wanted, strict=False):
            torch.testing.assert_close(got, exact)
        assert all(t.numel() == 0 for t in results[len(wanted) :])


@pytest.mark.parametrize("kernel", (3, 4, 7))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_plan(layout, kernel):
    def plan(**hooks):
        problem = _C.DepthwiseConv2dProblem(
            layout=layout,
            batch=4,
            in_channels=64,
            height=56,
            width=56,
            kernel_h=kernel,
            kernel_w=kernel,
            **hooks,
        )
        return _C.plan_depthwise_conv2d(problem, "cpu", isa="avx2")

    direct = kernel != 4
    assert ("direct" in plan().kernel) == ("direct" in plan(sums="channel").kernel) == direct
    packed = plan(has_prologue=True)
    assert "direct" not in packed.kernel and "prologue" in packed.reason
    assert plan().workspace == packed.workspace == 0
    channel, spatial = plan(sums="channel").workspace, plan(sums="spatial").workspace
    # At most a sixteenth of the output.
    assert 0 < spatial <= channel <= 4 * 64 * 56 * 56 * 4 // 16
