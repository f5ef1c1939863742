"""Kernels so much larger than the image that each of its pixels meets all of them, on CPU."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern.functional import depthwise_conv2d
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output
from effkern.testing.problems import DepthwiseConv2dCase as Case

GRADIENTS = ("grad_input", "grad_weight", "grad_bias")
# Width of the image, kernel, padding: with as many taps as there are distances between two columns,
# with more, and with one less on either side, which is the ordinary tile.
SHAPES = (
    (4, 7, 3), (5, 9, 4), (7, 13, 6), (7, 15, 7), (7, 21, 10), (8, 15, 7), (9, 17, 8), (13, 25, 12),
    (14, 27, 13), (14, 29, 14), (14, 25, 12), (15, 29, 14), (7, 11, 5), (3, 13, 6),
)  # fmt: skip


def gradients(case, grad_output, *tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(depthwise_conv2d(*leaves, **case.kwargs), leaves, grad_output)


@pytest.fixture(autouse=True)
def cpu_backend():
    with effkern.backend("cpu"):
        yield


layouts = pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
dtypes = pytest.mark.parametrize(
    "dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str
)


def problem(shape, height):
    width, kernel, padding = shape
    # 35 channels are no whole vectors.
    return Case(
        batch=2, channels=35, height=height or width, width=width,
        kernel=(kernel, kernel), padding=padding,
    )  # fmt: skip


@layouts
@dtypes
# Of pairs of rows, 1 and 9 leave one.
@pytest.mark.parametrize("height", (None, 1, 9), ids="height={}".format)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_right(shape, height, dtype, layout):
    case = problem(shape, height)
    input, weight, bias, grad_output = case.tensors(dtype, "cpu", layout)
    actual = depthwise_conv2d(input, weight, bias, **case.kwargs)
    expected_output(case, input, weight, bias).check(actual, "output")
    found = gradients(case, grad_output, input, weight, bias)
    expected = expected_gradients(case, grad_output, input, weight, bias)
    for name, got, wanted in zip(GRADIENTS, found, expected, strict=True):
        wanted.check(got, name)


@layouts
@dtypes
@pytest.mark.parametrize("activation", ("relu", "silu"))
def test_activation(activation, dtype, layout):
    case = problem((7, 13, 6), 7)
    input, weight, bias, _ = case.tensors(dtype, "cpu", layout)
    actual = depthwise_conv2d(input, weight, bias, **case.kwargs, activation=activation)
    expected_output(case, input, weight, bias, activation).check(actual, "output")


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
def test_pixels_meet_the_taps_of_their_distance(layout):
    input = torch.zeros(1, 16, 7, 7)
    input[:, :, 2, 5] = 1
    weight = torch.arange(16 * 169.0).view(16, 1, 13, 13)
    output = depthwise_conv2d(input.contiguous(memory_format=layout), weight, padding=6)
    for y in range(7):
        for x in range(7):
            assert torch.equal(output[0, :, y, x], weight[:, 0, 2 - y + 6, 5 - x + 6])


def test_infinities_beside_the_image_are_no_part_of_it():
    # Weights that meet only the padding may be anything.
    input, weight = torch.randn(1, 16, 5, 7), torch.randn(16, 1, 13, 13)
    wanted = depthwise_conv2d(input, weight, padding=6)
    assert wanted.isfinite().all()
    outside = torch.ones(13, dtype=torch.bool)
    # Rows of a kernel 13 high that an image 5 high never meets.
    outside[2:11] = False
    weight[:, :, outside] = torch.inf
    assert torch.equal(depthwise_conv2d(input, weight, padding=6), wanted)
