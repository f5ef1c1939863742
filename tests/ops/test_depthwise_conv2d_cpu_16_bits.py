"""What the CPU kernels do to 16-bit numbers: rounding, and values beside the borders."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern import _C
from effkern.functional import depthwise_conv2d
from effkern.reference.depthwise_conv2d import depthwise_conv2d as reference

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

both_dtypes = pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
both_layouts = pytest.mark.parametrize("layout", FORMATS)


@pytest.fixture(autouse=True)
def cpu_backend():
    with effkern.backend("cpu"):
        yield


def same(actual, expected):
    """Equal, infinities included, and NaN where it should be, whatever its payload."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def flush_subnormals(numbers):
    return torch.where(numbers.abs() < torch.finfo(numbers.dtype).tiny, 0.0, numbers)


# A product of two 16-bit numbers is exact in float32, so that there is one rounding. Ones, ties in
# both directions, factors that overflow and that make subnormals.
FACTORS = (1.0, -1.0078125, 1.5, 3.140625, 2.0**15, 2.0**-14, 1.0078125 * 2.0**-9)


@both_dtypes
@both_layouts
@pytest.mark.parametrize("kernel", (3, 5, 9))
@pytest.mark.parametrize("direction", ("output", "grad_input"))
def test_all_numbers_are_rounded_as_torch_does(dtype, layout, kernel, direction):
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    # No number meets another one, nor one of the other's zeros.
    step = kernel // 2 + 1
    input = torch.zeros(1, 2048, 1, 32 * step, dtype=dtype)
    input[0, :, 0, ::step] = numbers.view(2048, 32)
    input = input.contiguous(memory_format=FORMATS[layout])
    weight = torch.zeros(2048, 1, kernel, kernel, dtype=dtype)
    for factor in FACTORS:
        weight[:, :, kernel // 2, kernel // 2] = factor
        if direction == "output":
            actual = depthwise_conv2d(input, weight, padding=kernel // 2)
        else:
            leaf = torch.zeros_like(input, requires_grad=True)
            output = depthwise_conv2d(leaf, weight, padding=kernel // 2)
            (actual,) = torch.autograd.grad(output, leaf, input)
        rounded_factor = torch.tensor(factor, dtype=dtype).float()
        operands = numbers.float()
        # The kernels of AVX-512 BF16 (3x3 to 7x7): its products take subnormal numbers as zeros.
        flushed = dtype == torch.bfloat16 and layout == "contiguous" and kernel < 9
        if flushed and _C.cpu_isa() == "avx512_bf16":
            operands = flush_subnormals(operands)
            products = flush_subnormals(operands * rounded_factor)
        else:
            products = operands * rounded_factor
        same(actual[0, :, 0, ::step], products.to(dtype).view(2048, 32))


@both_dtypes
@both_layouts
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("width", (9, 17, 24, 41, 150))
def test_infinities_at_borders_reach_their_own_sums_only(dtype, layout, stride, kernel, width):
    torch.manual_seed(0)
    for column in (0, width - 2, width - 1):
        input = torch.randn(2, 35, 6, width).to(dtype)
        input[0, 3, 2, column] = torch.inf
        input = input.contiguous(memory_format=FORMATS[layout])
        weight = torch.rand(35, 1, kernel, kernel).to(dtype) + 0.5
        results = []
        # In float64: with AVX-512 torch's weight gradient in bfloat16 multiplies the infinity with
        # the zeros beside the image.
        for function, as_dtype in ((depthwise_conv2d, dtype), (reference, torch.float64)):
            leaf = weight.to(as_dtype).requires_grad_()
            output = function(input.to(as_dtype), leaf, stride=stride, padding=kernel // 2)
            (grad_weight,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
            results.append((output.isfinite(), grad_weight.isfinite()))
        for actual, expected in zip(*results, strict=True):
            same(actual, expected)
