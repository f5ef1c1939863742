"""What only the CUDA kernels can get wrong, emulated or real: zero times infinity, and counts."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

import effkern
from effkern.functional import depthwise_conv2d
from effkern.testing.problems import with_layout

DEVICES = {"cuda_emulated": "cpu", "cuda": "cuda"}
PRESENT = [name for name in DEVICES if effkern.backends()[name] is True]
if not PRESENT:
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)


@pytest.fixture(params=PRESENT)
def device(request):
    with effkern.backend(request.param):
        yield DEVICES[request.param]


class Geometry(NamedTuple):
    kernel: int
    stride: int
    padding: int
    dilation: int = 1


def weight_gradient(input, grad, geometry):
    """In float64, of the products of pixels that there are."""
    kernel, stride, padding, dilation = geometry
    input, grad = input.double(), grad.double()
    (height, width), (rows, columns) = input.shape[2:], grad.shape[2:]

    def met(tap, size, outputs):
        pairs = [(y, y * stride - padding + tap * dilation) for y in range(outputs)]
        return map(list, zip(*(pair for pair in pairs if 0 <= pair[1] < size), strict=True))

    wanted = input.new_zeros(input.shape[1], 1, kernel, kernel)
    for i in range(kernel):
        ys, sources = met(i, height, rows)
        for j in range(kernel):
            xs, others = met(j, width, columns)
            products = grad[:, :, ys][..., xs] * input[:, :, sources][..., others]
            wanted[:, 0, i, j] = products.sum((0, 2, 3))
    return wanted


# The last tile of rows and of columns reaches beyond the image; borders, and none.
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "geometry",
    (
        Geometry(3, 1, 0),
        Geometry(3, 1, 1),
        Geometry(3, 2, 0),
        Geometry(5, 1, 2),
        Geometry(7, 1, 0),
        Geometry(3, 1, 2, dilation=2),
    ),
    ids=str,
)
def test_weight_gradient_of_infinities(device, geometry, layout, dtype):
    kernel, stride, padding, dilation = geometry
    shape, reach = (2, 8, 14, 21), dilation * (kernel - 1)
    out = [(size + 2 * padding - reach - 1) // stride + 1 for size in shape[2:]]
    input, grad = torch.ones(shape, dtype=dtype), torch.ones(2, 8, *out, dtype=dtype)
    # Channels with an infinite pixel, gradient or both, at and beside the borders.
    input[0, 0, -1, -1] = input[1, 1, 0, 5] = input[1, 2, 6, -2] = torch.inf
    grad[1, 3, -1, -1] = grad[0, 4, 0, 0] = -torch.inf
    input[0, 5, 7, 0] = grad[1, 5, -1, 3] = torch.inf
    input[1, 6, 2, 2] = torch.nan
    wanted = weight_gradient(input, grad, geometry)
    input, grad = (with_layout(t, layout).to(device) for t in (input, grad))
    weight = torch.ones(8, 1, kernel, kernel, dtype=dtype, device=device, requires_grad=True)
    bias = torch.ones(8, dtype=dtype, device=device, requires_grad=True)
    output = depthwise_conv2d(
        input, weight, bias, stride=stride, padding=padding, dilation=dilation
    )
    actual, of_bias = torch.autograd.grad(output, (weight, bias), grad)
    # Sums of ones, which no type rounds in float32.
    torch.testing.assert_close(actual.cpu(), wanted.to(dtype), equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(of_bias.cpu(), grad.cpu().double().sum((0, 2, 3)).to(dtype))
    # Together with the input gradient, where one kernel may have them all.
    output = depthwise_conv2d(
        input.requires_grad_(), weight, bias, stride=stride, padding=padding, dilation=dilation
    )
    _, *others = torch.autograd.grad(output, (input, weight, bias), grad)
    for other, alone in zip(others, (actual, of_bias), strict=True):
        torch.testing.assert_close(other, alone, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "together"),
    (
        ({}, True),
        ({"dtype": torch.float32, "channels": 12}, True),
        ({"dtype": torch.float64}, False),
        ({"channels": 6}, False),
        ({"layout": "contiguous"}, False),
        ({"kernel": 5}, False),
        ({"stride": 2}, False),
        ({"pad": 0}, False),
    ),
    ids=str,
)
def test_gradients_in_one_kernel(change, together):
    from effkern import _library
    from effkern.testing.launches import record_call

    if not _library.emulation_available():
        pytest.skip("the launches are those of the emulated library")
    call = {"dtype": torch.bfloat16, "channels": 8, "layout": "channels_last"}
    call |= {"kernel": 3, "stride": 1, "pad": change.get("kernel", 3) // 2} | change
    channels, kernel, stride, pad = (call[k] for k in ("channels", "kernel", "stride", "pad"))
    out = [(size + 2 * pad - kernel) // stride + 1 for size in (9, 11)]
    input, grad = (
        with_layout(torch.ones(2, channels, *size, dtype=call["dtype"]), call["layout"])
        for size in ((9, 11), out)
    )
    weight = input.new_ones(channels, 1, kernel, kernel)
    geometry = (stride, stride, *4 * (pad,), 1, 1)
    launches = record_call("grads", input, weight, None, grad, geometry)
    names = [launch.kernel for launch in launches]
    assert any("channels_last_gradients_kernel" in name for name in names) is together
    assert len(names) == (2 if together else 3)


@pytest.mark.parametrize("channels", (40, 72, 144, 200, 256))
def test_blocks_of_the_direct_forward_are_full(channels):
    from effkern import _library
    from effkern.testing.launches import record_call

    if not _library.emulation_available():
        pytest.skip("the launches are those of the emulated library")
    input = torch.empty(8, channels, 4, 56, dtype=torch.bfloat16)
    input = input.contiguous(memory_format=torch.channels_last)
    weight = input.new_empty(channels, 1, 3, 3)
    (launch,) = record_call("fwd", input, weight, None, input, (1, 1, 1, 1, 1, 1, 1, 1))
    assert "channels_last_kernel" in launch.kernel
    # 8 channels of 2 columns in all 4 rows each.
    threads = 8 * channels // 8 * 56 // 2
    assert threads <= launch.blocks * launch.block[0] < 1.1 * threads


def test_gradients_of_many_strips(device):
    # Several strips for a thread, tiles of rows, and channels that do not fill their block.
    for dtype, channels in ((torch.float32, 36), (torch.bfloat16, 40)):
        input = torch.randn(3, channels, 41, 30).to(dtype)
        input = with_layout(input, "channels_last").to(device).requires_grad_()
        weight = torch.randn(channels, 1, 3, 3).to(device, dtype).requires_grad_()
        output = depthwise_conv2d(input, weight, padding=1)
        grad = with_layout(torch.randn(output.shape).to(dtype), "channels_last").to(device)
        together = torch.autograd.grad(output, (input, weight), grad)
        again = torch.autograd.grad(
            depthwise_conv2d(input, weight, padding=1), (input, weight), grad
        )
        assert all(map(torch.equal, together, again))
        wide = [t.detach().double().cpu().requires_grad_() for t in (input, weight)]
        exact = torch.nn.functional.conv2d(*wide, padding=1, groups=channels)
        exact = torch.autograd.grad(exact, wide, grad.double().cpu())
        for got, wanted in zip(together, exact, strict=True):
            error = (got.double().cpu() - wanted).abs()
            rounding = torch.finfo(dtype).eps / 2 * wanted.abs()
            assert (error <= rounding + 1e-5 * wanted.abs().max()).all()


def problem(pass_, dtype, layout, shape, kernel, **changes):
    batch, channels, height, width = shape
    sides = {f"pad_{side}": kernel // 2 for side in ("top", "bottom", "left", "right")}
    ones = dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
    sizes = {"batch": batch, "in_channels": channels, "height": height, "width": width}
    sizes |= {"out_channels": channels, "kernel_h": kernel, "kernel_w": kernel}
    kind = {"pass_": pass_, "dtype": dtype, "layout": layout, "has_bias": False, "activation": 0}
    return kind | sizes | sides | ones | changes


# From 2^31 elements on: whole tensors, and images.
@pytest.mark.parametrize(
    ("dtype", "layout", "shape", "kernel", "code", "count"),
    (
        ("float32", "contiguous", (512, 64, 512, 512), 3, "contiguous_kernel<float32, 3", 1),
        ("bfloat16", "channels_last", (4096, 8, 512, 512), 3, "channels_last_kernel<bf", 1),
        ("bfloat16", "contiguous", (512, 64, 512, 512), 7, "toeplitz_kernel<bfloat16, 7", 1),
        ("bfloat16", "channels_last", (512, 64, 512, 512), 7, "toeplitz_channels_last", 1),
        ("bfloat16", "contiguous", (3, 64, 8192, 8192), 13, "toeplitz_large_kernel<bf", 3),
        ("bfloat16", "channels_last", (1, 256, 8192, 4096), 5, "toeplitz_channels_last", 1),
        ("bfloat16", "contiguous", (1, 1, 65536, 40000), 7, "contiguous_kernel<bfloat16, 7", 1),
        ("float32", "contiguous", (2**29, 8, 5, 5), 3, "strided_kernel<float32, long", 1),
        ("float64", "contiguous", (2**20, 2**9, 32, 31), 3, "strided_kernel<float64", 1),
    ),
    ids=str,
)
def test_launches_for_large_tensors(dtype, layout, shape, kernel, code, count):
    from effkern import _library
    from effkern.ops.depthwise_conv2d import cuda_plan

    if not _library.emulation_available():
        pytest.skip("the launches are those of the emulated library")
    forward, gradient = (
        cuda_plan.launches(problem(pass_, dtype, layout, shape, kernel), emulated=True)
        for pass_ in ("forward", "grad_input")
    )
    assert len(forward) == len(gradient) == count
    assert {launch.code.removeprefix("depthwise_conv2d_")[: len(code)] for launch in forward} == {
        code
    }
    assert all(0 < launch.blocks < 2**31 for launch in (*forward, *gradient))


def test_more_blocks_than_a_grid_has_are_no_plan():
    from effkern import _library
    from effkern.ops.depthwise_conv2d import cuda_plan

    if not _library.emulation_available():
        pytest.skip("the launches are those of the emulated library")
    huge = problem("forward", "float64", "contiguous", (2**22, 2**9, 32, 32), 3)
    assert cuda_plan.launches(huge, emulated=True) is None


# A call that Python gives to the kernels with hooks must be one that the planner gives them.
@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "kernel", "fits"),
    (
        ((512, 64, 512, 512), "float32", "contiguous", 3, True),
        ((2048, 3, 512, 512), "float32", "contiguous", 3, True),
        ((2**25, 8, 1, 8), "float32", "contiguous", 3, False),
        ((512, 64, 512, 512), "bfloat16", "contiguous", 7, True),
        ((2, 64, 8192, 4096), "bfloat16", "contiguous", 7, False),
        ((1, 256, 8192, 4096), "bfloat16", "channels_last", 5, True),
        ((1, 512, 16, 4096), "bfloat16", "channels_last", 5, False),
    ),
    ids=str,
)
def test_hooks_of_large_tensors(shape, dtype, layout, kernel, fits):
    from effkern import _C
    from effkern.ops.depthwise_conv2d import fused_cuda

    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    input = torch.empty(shape, dtype=getattr(torch, dtype), device="meta", memory_format=format)
    weight = input.new_empty(shape[1], 1, kernel, kernel)
    geometry = (1, 1, *4 * (kernel // 2,), 1, 1, 0)
    assert fused_cuda._fits(input, weight, geometry) is fits
    sizes = problem("forward", dtype, layout, shape, kernel)
    sizes |= {"device": "cuda", "has_prologue": True, "sums": "channel"}
    plan = _C.plan_depthwise_conv2d(_C.DepthwiseConv2dProblem(**sizes), backend="cuda")
    assert plan.reason.startswith("composed: ") is not fits
