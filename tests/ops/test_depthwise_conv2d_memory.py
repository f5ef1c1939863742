"""What depthwise_conv2d reads, writes, keeps and needs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from effkern.functional import depthwise_conv2d
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output
from effkern.testing.memory import heap_growth
from effkern.testing.poison import SentinelBuffer
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.problems import with_layout

MIB = 1 << 20
ODD = Case(channels=19, height=7, width=23, kernel=(5, 5), padding=2)
REPRESENTATIVE = (
    Case(),
    ODD,
    Case(channels=16, height=8, width=16, stride=(2, 2), padding=((0, 1), (0, 1))),
    Case(batch=1, channels=3, height=17, width=18, kernel=(31, 31), padding=15),
)


@pytest.mark.parametrize("offset", range(17))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", REPRESENTATIVE, ids=lambda case: case.id)
def test_every_alignment_among_sentinels(backend, case, dtype, layout, offset):
    tensors = case.tensors(dtype, backend.device, layout)
    # Another offset for each, so that they are never aligned together.
    buffers = [SentinelBuffer(t, (offset + i) % 17) for i, t in enumerate(tensors)]
    input, weight, bias, grad_output = (buffer.view for buffer in buffers)

    output = depthwise_conv2d(input, weight, bias, **case.kwargs, activation="relu6")
    expected_output(case, *tensors[:3], "relu6").check(output, "output")
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    grads = torch.autograd.grad(depthwise_conv2d(*leaves, **case.kwargs), leaves, grad_output)
    expected = expected_gradients(case, tensors[3], *tensors[:3])
    names = ("input", "weight", "bias", "grad_output")
    for name, got, wanted in zip(names, grads, expected, strict=False):
        wanted.check(got, f"grad_{name}")
    for name, buffer in zip(names, buffers, strict=True):
        buffer.assert_unchanged(name)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_results_share_no_memory_with_arguments(backend, layout):
    input, weight, bias, grad_output = ODD.tensors(torch.float32, backend.device, layout)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]
    output = depthwise_conv2d(*leaves, **ODD.kwargs)
    grads = torch.autograd.grad(output, leaves, grad_output)
    storages = [t.untyped_storage().data_ptr() for t in (*leaves, grad_output, output, *grads)]
    assert len(set(storages)) == len(storages)
    for result in (output, *grads):
        assert result.untyped_storage().nbytes() == result.numel() * result.element_size()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
@pytest.mark.parametrize("activation", (None, "silu"))
def test_nothing_leaks(backend, activation, layout):
    if backend.name != "cpu":
        pytest.skip("counts the host's heap, over thousands of calls at full speed")
    *tensors, grad_output = Case().tensors(torch.float32, backend.device, layout)
    leaves = [t.requires_grad_() for t in tensors]

    def call():
        output = depthwise_conv2d(*leaves, **Case().kwargs, activation=activation)
        torch.autograd.grad(output, leaves, grad_output)

    # The smallest leak that there could be, of a pointer, would be 16 bytes per call.
    assert heap_growth(call, 2000) < 8


def operators_and_allocations(call):
    """The aten operators that a call runs, and the bytes it takes from torch's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    names = {event.name() for event in events if event.name().startswith("aten::")}
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return names, sum(size for size in sizes if size > 0)


COPIES = {
    "aten::contiguous",
    "aten::copy_",
    "aten::clone",
    "aten::_to_copy",
    "aten::to",
    "aten::pad",
    "aten::constant_pad_nd",
    "aten::convolution",
    "aten::_convolution",
}


@pytest.mark.parametrize("activation", (None, "relu", "gelu"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed", "sliced"))
@pytest.mark.parametrize("weight_layout", ("contiguous", "channels_last"))
def test_nothing_is_copied_to_another_layout(backend, weight_layout, layout, activation):
    size = 24 if backend.slow else 64
    case = Case(channels=32, height=size, width=size, padding=((1, 2), (2, 1)))
    input, weight, bias, grad_output = case.tensors(torch.float32, backend.device, layout)
    weight = with_layout(weight, weight_layout)
    leaves = [t.requires_grad_() for t in (input, weight, bias)]

    output = depthwise_conv2d(*leaves, **case.kwargs, activation=activation)
    names, allocated = operators_and_allocations(
        lambda: depthwise_conv2d(*leaves, **case.kwargs, activation=activation)
    )
    assert not names & COPIES
    # Scratch memory may be a fraction, not another copy.
    assert allocated <= 1.25 * output.nbytes

    names, allocated = operators_and_allocations(
        lambda: torch.autograd.grad(output, leaves, grad_output)
    )
    assert not names & COPIES
    gradient_of_activation = 0 if activation is None else output.nbytes
    assert allocated <= 1.25 * (input.nbytes + weight.nbytes) + gradient_of_activation


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(("kernel", "stride"), ((3, 1), (5, 2)))
def test_what_exceeds_the_caches_is_computed_as_what_does_not(
    backend, kernel, stride, layout, dtype
):
    if backend.name != "cpu":
        pytest.skip("the CPU's caches, and too much for an emulator")
    # More than 16 MiB also with stride 2; each image alone is far less.
    input = torch.randn(24, 48, 80, 80 if dtype == torch.float32 else 144, dtype=dtype)
    weight = torch.randn(48, 1, kernel, kernel, dtype=dtype)
    if layout == "channels_last":
        input = input.contiguous(memory_format=torch.channels_last)

    def call(images):
        images = images.detach().requires_grad_()
        output = depthwise_conv2d(images, weight, None, stride, kernel // 2)
        return output.detach(), torch.autograd.grad(output, images, output.detach())[0]

    output, grad = call(input)
    for n, image in enumerate(input.split(1)):
        expected_output, expected_grad = call(image)
        assert torch.equal(output[n : n + 1], expected_output), n
        assert torch.equal(grad[n : n + 1], expected_grad), n


# Resident memory, so that memory counts however it is allocated; each in a process of its own,
# because freed memory stays resident.
PEAK = """
import sys
import torch
import effkern
from effkern.functional import depthwise_conv2d
from effkern.reference.depthwise_conv2d import depthwise_conv2d as reference
from effkern.testing.memory import peak_memory

torch.set_num_threads(2)
backend, layout, kernel, activation = sys.argv[1:]
kernel, activation = int(kernel), activation if activation != "None" else None
function = reference if backend == "torch" else depthwise_conv2d


def run(size):
    input = torch.randn(1, 16, size, size)
    weight = torch.randn(16, 1, kernel, kernel)
    if layout == "channels_last":
        input = input.contiguous(memory_format=torch.channels_last)
        weight = weight.contiguous(memory_format=torch.channels_last)
    input.requires_grad_()
    weight.requires_grad_()

    def call():
        output = function(input, weight, padding=kernel // 2, activation=activation)
        output.backward(output.detach())

    return peak_memory(call)


with effkern.backend(backend):
    run(32)
    print(run(512))
"""


def peak_in_subprocess(*arguments):
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout)


@pytest.mark.parametrize(
    ("layout", "kernel", "activation"),
    (
        ("contiguous", 3, None),
        ("contiguous", 7, "silu"),
        ("channels_last", 3, "relu"),
        ("channels_last", 7, None),
    ),
)
def test_peak_memory_is_no_more_than_torchs(backend, layout, kernel, activation):
    if backend.name != "cpu":
        pytest.skip("measures the resident memory of the host, at full speed")
    ours = peak_in_subprocess(backend.name, layout, kernel, activation)
    theirs = peak_in_subprocess("torch", layout, kernel, activation)
    # Output, gradient of the input: that much has to show, or nothing was measured.
    assert ours > 2 * 16 * MIB * 0.9
    assert ours <= theirs + MIB
