"""Backend cuda_emulated: errors of its launches, and the order that it runs threads in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import effkern
from effkern.kernel_names import short_name
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


@pytest.mark.parametrize(
    "kernel, reason, code",
    (
        ((9, 9), "tiles transposed", "channels_last_large_kernel<bfloat16, 3, "),
        ((51, 5), "copied as planes", "toeplitz_large_kernel<bfloat16, 2, "),
    ),
)
def test_an_explanation_of_channels_last_images_on_tensor_cores(kernel, reason, code):
    import torch

    def explain(channels):
        shape, last = (2, channels, 20, 20), torch.channels_last
        image = torch.empty(shape, dtype=torch.bfloat16, memory_format=last)
        weight, padding = image.new_empty(channels, 1, *kernel), tuple(k // 2 for k in kernel)
        function = effkern.functional.depthwise_conv2d
        with effkern.backend("cuda_emulated"):
            return effkern.explain(function, image, weight, padding=padding).plans

    plans, halves = explain(16), explain(12)
    assert reason in plans["forward"].reason and code in plans["forward"].code
    assert plans["forward"].kernel == "cuda_toeplitz"
    assert plans["grad_weight"].kernel == "cuda_weight_grad_mma"
    assert "wgrad_mma_kernel" in plans["grad_weight"].code
    # 12 channels are no whole vectors of 8.
    assert halves["forward"].kernel != "cuda_toeplitz"
    assert halves["grad_weight"].kernel != "cuda_weight_grad_mma"


@pytest.mark.parametrize("kernel", (3, 5, 7))
def test_an_explanation_of_the_weight_gradient_of_channels_last_images(kernel):
    import torch

    def explain(channels, dtype=torch.bfloat16):
        shape, last = (2, channels, 7, 9), torch.channels_last
        image = torch.empty(shape, dtype=dtype, memory_format=last)
        weight = image.new_empty(channels, 1, kernel, kernel)
        function = effkern.functional.depthwise_conv2d
        with effkern.backend("cuda_emulated"):
            plans = effkern.explain(function, image, weight, padding=kernel // 2).plans
        return plans["grad_weight"]

    products = explain(12)
    assert products.kernel == "cuda_weight_grad_mma"
    assert f"channels_last_wgrad_mma_kernel<bfloat16, {kernel}>" in products.code
    assert "pairs of pixels" in products.reason
    # 10 channels are no whole vectors of 4, and float32 has no such products.
    assert explain(10).kernel == "cuda_weight_grad_channels_last"
    assert explain(12, torch.float32).kernel == "cuda_weight_grad_channels_last"


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "kernel, stride", ((3, 1), (3, 2), (5, 1), (7, 1), (9, 1), (31, 1), (3, 3))
)
def test_a_plan_has_the_launches_of_the_call(kernel, stride, layout, dtype):
    import torch

    from effkern import _library
    from effkern.ops.depthwise_conv2d import cuda_plan
    from effkern.testing.launches import record_call

    pad, shape, image = kernel // 2, (3, 24, 33, 30), torch.channels_last
    if layout == "contiguous":
        image = torch.contiguous_format
    input = torch.empty(shape, dtype=getattr(torch, dtype), memory_format=image)
    out = [(size - 1) // stride + 1 for size in shape[2:]]
    grad = torch.empty((*shape[:2], *out), dtype=input.dtype, memory_format=image)
    weight = input.new_empty(24, 1, kernel, kernel)
    problem = {"dtype": dtype, "layout": layout, "has_bias": False, "activation": 0}
    problem |= dict(zip(("batch", "in_channels", "height", "width"), shape, strict=True))
    problem |= {"out_channels": 24, "dilation_h": 1, "dilation_w": 1}
    problem |= {f"pad_{side}": pad for side in ("top", "bottom", "left", "right")}
    problem |= {"kernel_h": kernel, "kernel_w": kernel, "stride_h": stride, "stride_w": stride}
    geometry = (stride, stride, *4 * (pad,), 1, 1)
    for pass_, name in (("fwd", "forward"), ("dgrad", "grad_input"), ("wgrad", "grad_weight")):
        recorded = record_call(pass_, input, weight, None, grad, geometry)
        planned = cuda_plan.launches(problem | {"pass_": name}, emulated=True)
        for wanted, got in zip(recorded, planned, strict=True):
            threads = wanted.block[0] * wanted.block[1] * wanted.block[2]
            assert got[1:] == (wanted.blocks, threads, wanted.shared_memory), name
            assert got.code in (None, short_name(wanted.kernel))
        assert name != "forward" or planned[0].code is not None
        if _library.has_cuda_kernels():
            assert cuda_plan.launches(problem | {"pass_": name}) == planned


@pytest.mark.parametrize(
    "change, reason",
    [
        ({}, "hooks in the direct kernel"),
        ({"kernel": 7}, "hooks in the tensor-core kernel"),
        ({"dilation": 2}, "composed: only the direct kernels and tensor-core"),
        ({"input_activation": "gelu"}, "composed: the kernels with hooks do not take"),
        ({"channels": 1}, "composed: the kernels with hooks do not take this call"),
    ],
    ids=str,
)
def test_an_explanation_of_hooks(change, reason):
    import torch

    call = {"kernel": 3, "dilation": 1, "input_activation": "relu", "channels": 8} | change
    input = torch.empty(2, call["channels"], 12, 12, dtype=torch.bfloat16)
    weight = input.new_empty(call["channels"], 1, call["kernel"], call["kernel"])
    function = effkern.functional.depthwise_conv2d_fused
    arguments = {name: call[name] for name in ("dilation", "input_activation")}
    with effkern.backend("cuda_emulated"):
        explained = effkern.explain(function, input, weight, sums="channel", **arguments)
        plain = effkern.explain(function, input, weight)
    plan = explained.plans["forward"]
    assert reason in plan.reason and plan.backend == "cuda_emulated"
    assert "composed" not in plain.plans["forward"].reason
    if not change:
        assert plan.kernel == "cuda_direct_contiguous" and plan.predicted is None


def test_an_explanation_predicts_a_known_layer():
    import torch

    image = torch.empty(8, 96, 56, 56, dtype=torch.bfloat16)
    layer = effkern.DepthwiseConv2d(96, 96, 7, padding=3, dtype=torch.bfloat16)
    with effkern.backend("cuda_emulated"):
        explained = effkern.explain(layer, image)
        other = effkern.explain(layer, image[:, :, :3, :3].contiguous()).plans["forward"]
    plan = explained.plans["forward"]
    assert plan.code == "depthwise_conv2d_toeplitz_kernel<bfloat16, 7, BiasActivation>"
    assert plan.grid > 0 and plan.shared_memory > 0 and "threads" in plan.tile
    assert plan.dram_bytes == plan.bytes and plan.counted_for == "96x56x56"
    assert plan.predicted_for == "H200" and plan.predicted >= plan.bytes / 4.3e12
    assert 10 < plan.instructions_per_output < 20
    assert "predicted" in str(explained) and "us" in str(explained)
    # No layer so small has been counted.
    assert other.grid > 0 and other.predicted is None and other.instructions_per_output is None
