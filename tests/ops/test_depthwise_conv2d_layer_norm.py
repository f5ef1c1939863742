"""depthwise_conv2d_layer_norm: results and gradients against extended precision."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern import _library
from effkern.functional import depthwise_conv2d, depthwise_conv2d_layer_norm
from effkern.testing.depthwise_conv2d_layer_norm import Exact, norm_tensors
from effkern.testing.poison import SentinelBuffer, poisoned_memory
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.problems import with_layout

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded_batch")
EPS = 1e-6

# Sizes below, at and above vectors, strips, tiles and blocks, for one pass and for two.
CASES = (
    Case(channels=16, height=6, width=9),
    Case(batch=0, channels=8),
    Case(bias=False, channels=8, height=4, width=4),
    # Vectors that the channels do not fill.
    Case(channels=11, height=5, width=7, kernel=(7, 7), padding=3),
    Case(channels=37, height=7, width=7, kernel=(5, 5), padding=2),
    # One block, many blocks, a last one of a single row.
    Case(channels=96, height=7, width=7, kernel=(7, 7), padding=3),
    Case(batch=3, channels=24, height=19, width=11, kernel=(7, 7), padding=3),
    Case(batch=1, channels=40, height=37, width=20, kernel=(7, 7), padding=3),
    Case(batch=1, channels=200, height=3, width=33),
    Case(batch=1, channels=1000, height=2, width=5),
    # Borders that are not alike.
    Case(channels=16, height=8, width=9, kernel=(5, 5), padding=((0, 3), (4, 1))),
    Case(channels=16, height=9, width=8, kernel=(3, 3), padding="valid"),
    Case(channels=16, height=8, width=9, kernel=(7, 7), padding="same"),
    # No direct kernel.
    Case(channels=20, height=9, width=13, kernel=(4, 6), padding=(2, 3)),
    Case(channels=6, height=12, width=11, multiplier=3),
    Case(channels=20, height=9, width=11, kernel=(9, 9), padding=4),
    Case(channels=33, height=1, width=1),
    Case(channels=17, height=70, width=2),
    Case(channels=3, height=4, width=300),
    Case(channels=2, height=5, width=6),
)
# Of a GPU's tiles: rows, columns and channels that fill none or more than one, each kernel size.
KERNEL_CASES = (
    Case(batch=1, channels=96, height=7, width=10, kernel=(7, 7), padding=3),
    Case(channels=37, height=5, width=7, kernel=(5, 5), padding=((0, 3), (4, 1))),
    Case(batch=1, channels=1000, height=3, width=5),
    Case(channels=16, height=9, width=8, kernel=(3, 3), padding="valid", bias=False),
    Case(channels=6, height=5, width=4, multiplier=2),
)
GRADIENT_CASES = (
    Case(batch=2, channels=3, height=4, width=3),
    Case(batch=1, channels=2, height=3, width=4, multiplier=2, padding=((1, 0), (0, 2))),
    Case(batch=2, channels=4, height=3, width=3, bias=False),
)

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
all_layouts = pytest.mark.parametrize("layout", LAYOUTS)
all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.fixture
def kernels():
    """The kernels, or an error; fresh memory is full of NaN."""
    with poisoned_memory("cpu"), effkern.backend("cpu"):
        yield


def problem(case, dtype, layout="contiguous"):
    """(input, weight, bias or None, norm_weight, norm_bias), grad_output."""
    input, weight, bias, grad_output = case.tensors(dtype, "cpu", layout)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (input, weight, bias, *norm_tensors(case, wide)), grad_output


def gradients(case, tensors, grad_output, eps=EPS):
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = depthwise_conv2d_layer_norm(*leaves, eps, padding=case.padding)
    return torch.autograd.grad(output, [t for t in leaves if t is not None], grad_output)


@all_dtypes
@all_layouts
@all_cases
def test_forward(kernels, case, layout, dtype):
    tensors, grad_output = problem(case, dtype, layout)
    actual = depthwise_conv2d_layer_norm(*tensors, EPS, padding=case.padding)
    assert actual.stride() == depthwise_conv2d(*tensors[:3], padding=case.padding).stride()
    if case.batch:
        Exact(case, tensors, grad_output, EPS).check_output(actual)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda case: case.id)
def test_composed_or_in_one_kernel(backend, case, layout, dtype):
    (*tensors, norm_bias), grad_output = problem(case, dtype, layout)
    tensors = (*tensors, None if case.kernel == (5, 5) else norm_bias)
    moved = [None if t is None else t.to(backend.device) for t in tensors]
    actual = depthwise_conv2d_layer_norm(*moved, EPS, padding=case.padding)
    z = depthwise_conv2d(*moved[:3], padding=case.padding)
    assert actual.stride() == z.stride()
    composed = case.multiplier > 1
    if backend.name.startswith("cuda"):
        composed |= layout == "contiguous" or case.channels % 8 > 0
    if composed and backend.name != "cpu" and dtype != torch.float32:
        # Rounded between the two.
        wide = z.float().permute(0, 2, 3, 1)
        wanted = torch.layer_norm(wide, wide.shape[-1:], *moved[3:], EPS).permute(0, 3, 1, 2)
        torch.testing.assert_close(actual, wanted.to(dtype))
    else:
        Exact(case, tensors, grad_output, EPS).check_output(actual.cpu())


@all_dtypes
@all_layouts
@all_cases
def test_gradients(kernels, case, layout, dtype):
    tensors, grad_output = problem(case, dtype, layout)
    actual = gradients(case, tensors, grad_output)
    for got, leaf in zip(actual, [t for t in tensors if t is not None], strict=True):
        assert got.shape == leaf.shape and got.dtype == leaf.dtype
        assert case.batch or not got.any()
    if case.batch:
        Exact(case, tensors, grad_output, EPS).check_gradients(actual)


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("given", ((True, False), (False, True), (False, False)))
def test_norm_without_weight_or_bias(kernels, given, layout, dtype):
    case = Case(channels=19, height=6, width=8)
    tensors, grad_output = problem(case, dtype, layout)
    norm = [t if present else None for t, present in zip(tensors[3:], given, strict=True)]
    tensors = (*tensors[:3], *norm)
    exact = Exact(case, tensors, grad_output, EPS)
    exact.check_output(depthwise_conv2d_layer_norm(*tensors, EPS, padding=1))
    exact.check_gradients(gradients(case, tensors, grad_output))


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("eps", (0.5, 1e-12))
def test_eps_and_a_large_mean(kernels, eps, layout, dtype):
    """A mean that is far from zero: the variance must not come out of a difference of squares."""
    case = Case(channels=48, height=9, width=10, kernel=(7, 7), padding=3)
    (input, weight, bias, *norm), grad_output = problem(case, dtype, layout)
    tensors = (input + 300, weight / 1000 + 1 / 49, bias, *norm)
    exact = Exact(case, tensors, grad_output, eps)
    exact.check_output(depthwise_conv2d_layer_norm(*tensors, eps, padding=3))
    exact.check_gradients(gradients(case, tensors, grad_output, eps))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_channels_that_are_all_equal(kernels, dtype, layout):
    input = with_layout(torch.full((2, 24, 8, 8), 3.0, dtype=dtype), layout)
    weight = torch.ones(24, 1, 3, 3, dtype=dtype)
    norm = torch.full((24,), 2.0), torch.arange(24.0)
    output = depthwise_conv2d_layer_norm(input, weight, None, *norm, padding=1)
    assert torch.equal(output, norm[1].to(dtype)[:, None, None].expand_as(output))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@all_dtypes
def test_nan_stays_in_the_pixels_that_see_it(kernels, dtype, layout):
    case = Case(channels=16, height=12, width=13)
    tensors, _ = problem(case, dtype, layout)
    tensors[0][1, 5, 4, 6] = torch.nan
    output = depthwise_conv2d_layer_norm(*tensors, padding=1)
    bad = torch.zeros(2, 12, 13, dtype=torch.bool)
    bad[1, 3:6, 5:8] = True
    assert torch.equal(output.isnan(), bad[:, None].expand_as(output))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("kernel", (4, 7))
def test_threads_do_not_change_a_bit(kernels, kernel, dtype, layout):
    case = Case(batch=3, channels=40, height=29, width=31, kernel=(kernel,) * 2, padding=3)
    tensors, grad_output = problem(case, dtype, layout)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = depthwise_conv2d_layer_norm(*tensors, padding=3)
            padded = grad_output[..., : output.shape[2], : output.shape[3]]
            results.append((output, *gradients(case, tensors, padded)))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@all_dtypes
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("offset", (0, 1, 3))
def test_memory_around_the_tensors(kernels, offset, layout, dtype):
    for case in (Case(channels=13, height=7, width=9), Case(channels=24, height=8, width=8)):
        tensors, grad_output = problem(case, dtype, layout)
        buffers = [SentinelBuffer(t, offset) for t in (*tensors, grad_output)]
        views = [buffer.view for buffer in buffers]
        actual = gradients(case, views[:5], views[5])
        for got, wanted in zip(actual, gradients(case, tensors, grad_output), strict=True):
            assert torch.equal(got, wanted)
        for buffer in buffers:
            buffer.assert_unchanged()


@pytest.mark.parametrize("needed", range(5))
def test_gradient_of_one_argument_alone(kernels, needed):
    case = Case(channels=9, height=6, width=7)
    tensors, grad_output = problem(case, torch.float64, "channels_last")
    wanted = gradients(case, tensors, grad_output)[needed]
    only = [t.detach() for t in tensors]
    only[needed].requires_grad_()
    output = depthwise_conv2d_layer_norm(*only, EPS, padding=1)
    (actual,) = torch.autograd.grad(output, only[needed], grad_output)
    assert torch.equal(actual, wanted)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=lambda case: case.id)
def test_gradcheck(case, layout):
    tensors, _ = problem(case, torch.float64, layout)
    leaves = [None if t is None else t.requires_grad_() for t in tensors]

    def function(*tensors):
        return depthwise_conv2d_layer_norm(*tensors, 1e-3, padding=case.padding)

    assert torch.autograd.gradcheck(function, leaves, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_unbatched(kernels, dtype):
    case = Case(batch=1, channels=16, height=6, width=7)
    tensors, grad_output = problem(case, dtype)
    actual = depthwise_conv2d_layer_norm(tensors[0][0], *tensors[1:], padding=1)
    assert torch.equal(actual, depthwise_conv2d_layer_norm(*tensors, padding=1)[0])
    got = gradients(case, (tensors[0][0], *tensors[1:]), grad_output[0])
    assert torch.equal(got[0], gradients(case, tensors, grad_output)[0][0])


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_other_backends_are_composed(backend, dtype):
    """Exactly of their own convolution and torch's layer_norm in float32."""
    if backend.name == "cpu":
        pytest.skip("has a kernel of its own")
    layouts = ["contiguous"]
    if not backend.name.startswith("cuda"):
        layouts.append("channels_last")
    for layout in layouts:
        tensors, _ = problem(Case(channels=16, height=5, width=6), dtype, layout)
        # Calls without gradients may have a kernel of their own.
        tensors = [t.to(backend.device).requires_grad_() for t in tensors]
        actual = depthwise_conv2d_layer_norm(*tensors, EPS, padding=1)
        z = depthwise_conv2d(*tensors[:3], padding=1)
        wide = z.permute(0, 2, 3, 1).float()
        wanted = torch.layer_norm(wide, (16,), *tensors[3:], EPS).to(dtype).permute(0, 3, 1, 2)
        assert torch.equal(actual, wanted) and actual.stride() == z.stride()
