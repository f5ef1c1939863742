"""Backend cuda_emulated: errors of its launches, and the order that it runs threads in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import effkern
from effkern.ops.depthwise_conv2d import operators

if effkern.backends()["cuda_emulated"] is not True:
    if "cuda_emulated" in os.environ.get("EFFKERN_REQUIRE_BACKENDS", ""):
        pytest.fail(f"cuda_emulated is required: {effkern.backends()['cuda_emulated']}")
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)

CALL = """
import torch
import effkern
torch.manual_seed(0)
input, weight = torch.randn(2, 8, 9, 11), torch.randn(8, 1, 3, 3)
with effkern.backend("cuda_emulated"):
    try:
        output = effkern.functional.depthwise_conv2d(input, weight, padding=1)
    except RuntimeError as error:
        print(error)
    else:
        wanted = torch.conv2d(input, weight, padding=1, groups=8)
        torch.testing.assert_close(output, wanted)
        print("right")
"""


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", ("forward", "reverse", "random", "random:17"))
def test_orders(order):
    assert run(EFFKERN_EMULATION_ORDER=order) == "right"


def test_a_launch_that_the_device_refuses():
    error = run(EFFKERN_EMULATION_MAX_THREADS="16")
    assert error.startswith("effkern.depthwise_conv2d: emulated CUDA error: depthwise_conv2d_")
    assert "threads per block: wanted 1 to 16, at most 64 of them in z, got (32,1,1)" in error
    assert error.endswith("at the launch for 2x8x9x11, kernel 3x3, stride 1x1")


def test_operators_refuse_other_backends():
    import torch

    forward = operators.BY_BACKEND[effkern.registry.BACKENDS["cuda_emulated"]].public_forward
    input, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    with pytest.raises(RuntimeError, match=r"backend: wanted cuda_emulated \(5\), got 2"):
        forward(input, weight, None, 1, 1, 0, 0, 0, 0, 1, 1, 0, effkern.registry.BACKENDS["cuda"])


def test_an_explanation_shows_the_cuda_kernel():
    import torch

    with effkern.backend("cuda_emulated"):
        layer = effkern.DepthwiseConv2d(8, 8, 3, padding=1)
        plan = effkern.explain(layer, torch.randn(1, 8, 5, 5)).plans["forward"]
        half = effkern.DepthwiseConv2d(8, 8, 7, padding=3, dtype=torch.bfloat16)
        image = torch.randn(1, 8, 9, 9, dtype=torch.bfloat16)
        tensor_cores = effkern.explain(half, image).plans["forward"]
        last = image.contiguous(memory_format=torch.channels_last)
        transposed = effkern.explain(half, last).plans["forward"]
        small = effkern.DepthwiseConv2d(8, 8, 3, padding=1, dtype=torch.bfloat16)
        fma = effkern.explain(small, last).plans["forward"]
    assert (plan.backend, plan.kernel) == ("cuda_emulated", "cuda_direct_contiguous")
    assert tensor_cores.kernel == "cuda_toeplitz"
    assert transposed.kernel == "cuda_toeplitz"
    assert fma.kernel == "cuda_direct_channels_last"
