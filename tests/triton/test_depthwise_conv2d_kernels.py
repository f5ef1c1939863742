"""What the operator's tests do not reach in Triton's interpreter.

Many chunks of kernel rows, 64-bit offsets, infinities beside the image: small problems of the
classes that effkern.testing.thinning leaves out.
"""

from __future__ import annotations

import mmap

import pytest
import torch

import effkern
from effkern import _triton
from effkern.functional import depthwise_conv2d
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output
from effkern.testing.problems import DepthwiseConv2dCase as Case

if not _triton.interpreting():
    pytest.skip("wanted a process with TRITON_INTERPRET=1", allow_module_level=True)

from effkern.triton_kernels.depthwise_conv2d import configs, launch  # noqa: E402


@pytest.fixture(autouse=True)
def interpreted():
    with effkern.backend("triton_interpreted"):
        yield


def check(case, dtype=torch.float32, layout="contiguous"):
    input, weight, bias, grad_output = case.tensors(dtype, "cpu", layout)
    output = depthwise_conv2d(input, weight, bias, **case.kwargs)
    expected_output(case, input, weight, bias).check(output, "output")
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    grads = torch.autograd.grad(depthwise_conv2d(*leaves, **case.kwargs), leaves, grad_output)
    expected = expected_gradients(case, grad_output, *leaves)
    for name, got, wanted in zip(("input", "weight", "bias"), grads, expected, strict=True):
        wanted.check(got, f"grad_{name}")


# Two whole chunks of 8 kernel rows and a rest, in each direction.
@pytest.mark.parametrize(
    "case",
    (
        Case(1, 2, 6, 5, kernel=(19, 2), padding=((9, 9), (1, 0))),
        Case(1, 2, 7, 40, kernel=(2, 19), padding=((1, 0), (9, 9))),
        Case(1, 1, 9, 6, kernel=(17, 3), padding=(8, 1), stride=(2, 2)),
        Case(1, 1, 9, 6, kernel=(16, 2), padding=(15, 1), dilation=(2, 1)),
    ),
    ids=lambda case: case.id,
)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_chunks_of_kernel_rows(case, layout):
    check(case, layout=layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize(
    "case",
    (Case(channels=8, height=5), Case(1, 2, 7, 6, stride=(2, 2), multiplier=2, dilation=(1, 2))),
    ids=lambda case: case.id,
)
def test_64_bit_offsets(monkeypatch, case, layout):
    monkeypatch.setattr(launch, "_is_wide", lambda *tensors: True)
    check(case, layout=layout)


def far_apart(images):
    """A copy whose images are 2^31 elements and some apart; what is between takes no memory."""
    apart, (batch, *_) = 2**31 + 64, images.shape
    size = ((batch - 1) * apart + images[0].numel()) * images.element_size()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    elements = torch.frombuffer(memory, dtype=images.dtype)
    return elements.as_strided(images.shape, (apart, *images.stride()[1:])).copy_(images)


# In vectors of channels, distances of 2^31 elements and more fit 32 bits.
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_images_that_are_far_apart(layout):
    case = Case(2, 8, 5, 6)
    input, weight, bias, grad_output = case.tensors(torch.float16, "cpu", layout)

    def results(input, grad_output):
        leaves = [t.detach().requires_grad_() for t in (input, weight, bias)]
        output = depthwise_conv2d(*leaves, **case.kwargs, activation="silu")
        return output, *torch.autograd.grad(output, leaves, grad_output)

    near = results(input, grad_output)
    for far, wanted in zip(results(far_apart(input), far_apart(grad_output)), near, strict=True):
        assert torch.equal(far, wanted)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("stride", (1, 2, 3))
def test_an_infinite_gradient_stays_at_its_taps(stride, layout):
    case = Case(1, 8, 11, 9, kernel=(5, 5), padding=2, stride=(stride, stride), bias=False)
    input, weight, _, grad_output = case.tensors(torch.float32, "cpu", layout)
    grad_output[0, :, 1, 2] = torch.inf
    weight, input = weight.abs() + 0.1, input.requires_grad_()
    (actual,) = torch.autograd.grad(
        depthwise_conv2d(input, weight, **case.kwargs), input, grad_output
    )
    with effkern.backend("torch"):
        output = depthwise_conv2d(input, weight, **case.kwargs)
        (wanted,) = torch.autograd.grad(output, input, torch.zeros_like(grad_output))
    y, x = 1 * stride - 2, 2 * stride - 2
    wanted[0, :, max(y, 0) : y + 5, max(x, 0) : x + 5] = torch.inf
    assert torch.equal(actual.isinf(), wanted.isinf()) and not actual.isnan().any()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("height", (5, 7, 9))
def test_infinite_pixels_that_no_output_reads(height, layout):
    # Without padding the last rows of the input meet only some taps; the tiles reach beyond them.
    case = Case(1, 8, height, 6, kernel=(2, 3), padding=0, stride=(3, 1), bias=False)
    input, weight, _, grad_output = case.tensors(torch.float32, "cpu", layout)
    input[:, :, (case.output_shape[2] - 1) * 3 + 2 :] = torch.inf
    weight.requires_grad_()
    output = depthwise_conv2d(input, weight, **case.kwargs)
    (actual,) = torch.autograd.grad(output, weight, grad_output)
    assert output.isfinite().all() and actual.isfinite().all()


def test_several_splits_are_added_in_order():
    case = Case(4, 3, 24, 24, kernel=(1, 1), padding=0)
    assert configs.weight_grad("w", 4, 4, 24, 24, 3, (1, 1), 1).splits > 8
    check(case)


def test_workspace_is_bounded():
    for channels, size, kernel in ((1024, 7, 13), (32, 112, 3), (4096, 224, 31), (8, 4096, 1)):
        config = configs.weight_grad("c", 2, 64, size, size, channels, (kernel, kernel), 1)
        workspace = config.splits * (kernel * kernel + 1) * channels * 4
        traffic = 2 * 2 * 64 * size * size * channels
        assert config.splits == 1 or workspace <= min(16 << 20, 0.06 * 2 * traffic)
