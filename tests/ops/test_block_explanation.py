"""explain of whole blocks."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern import _library
from effkern.functional import convnext_block, fused_mbconv, mbconv
from effkern.ops.convnext_block.triton_backend import choose

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

X = torch.zeros(2, 8, 6, 5)


def tensors(*shapes):
    return [torch.zeros(shape) for shape in shapes]


CALLS = {
    "fused_mbconv": (fused_mbconv, (X, *tensors((24, 8, 3, 3), 24, (16, 24), 16)), {}),
    "mbconv": (
        mbconv,
        (X, *tensors((24, 8), 24, (24, 1, 5, 5), 24), None, *tensors((16, 24), 16)),
        {"padding": 2},
    ),
    "convnext_block": (
        convnext_block,
        (X, *tensors((8, 1, 7, 7), 8, 8, 8, (32, 8), 32, (8, 32), 8, 8)),
        {},
    ),
}
# Multiply-adds per pixel of the output.
WORK = {
    "fused_mbconv": 24 * 8 * 9 + 16 * 24,
    "mbconv": 24 * 8 + 24 * 25 + 16 * 24,
    "convnext_block": 8 * 49 + 2 * 32 * 8,
}
KERNELS = {
    "fused_mbconv": "winograd",
    "mbconv": "pointwise, depthwise_conv2d_fused, pointwise",
    "convnext_block": "depthwise_conv2d_layer_norm, pointwise, pointwise",
}


@pytest.mark.parametrize("name", CALLS)
def test_on_cpu(name):
    function, args, keywords = CALLS[name]
    explanation = effkern.explain(function, *args, **keywords)
    plan = explanation.plans["forward"]
    assert explanation.op == name
    assert (plan.backend, plan.kernel) == ("cpu", KERNELS[name])
    assert plan.flops == 2 * 2 * 6 * 5 * WORK[name]
    outputs = function(*args, **keywords)
    numbers = sum(t.numel() for t in (*args, outputs) if t is not None)
    assert plan.bytes == 4 * numbers
    text = str(explanation)
    assert name in text and plan.reason in text and "input (2, 8, 6, 5) float32" in text


@pytest.mark.parametrize("name", CALLS)
def test_composed(name):
    function, args, keywords = CALLS[name]
    wide = [None if t is None else t.double() for t in args]
    assert effkern.explain(function, *wide, **keywords).plans["forward"].backend == "torch"
    with effkern.backend("torch"):
        assert effkern.explain(function, *args, **keywords).plans["forward"].backend == "torch"
    if name != "convnext_block":
        args = (X.clone().requires_grad_(), *args[1:])
        assert "gradient" in effkern.explain(function, *args, **keywords).plans["forward"].reason


def test_other_forms_of_fused_mbconv():
    function, args, _ = CALLS["fused_mbconv"]
    few = effkern.explain(function, *args, stride=2).plans["forward"]
    assert few.kernel.startswith("aten::") and "32 pixels" in few.reason
    many = (torch.randn(3, 8, 9, 8), *args[1:])
    assert effkern.explain(function, *many, stride=2).plans["forward"].kernel == "direct"
    with effkern.backend("triton_interpreted" if effkern.backends()["triton_interpreted"] is True
                         else "cuda_emulated"):  # fmt: skip
        plan = effkern.explain(function, *args).plans["forward"]
    assert plan.kernel == "fused_mbconv" and "was asked for" in plan.reason


@pytest.mark.parametrize(
    "channels, response_norm, one_kernel, numbers, words",
    (
        (96, False, True, 5 * 96, "in one kernel: 768 numbers per pixel"),
        (256, False, True, 5 * 256, "in one kernel"),
        (257, False, False, 13 * 257, "257 channels do not fit one kernel, 256 do"),
        (96, True, False, 17 * 96, "norms of whole images"),
    ),
)
def test_what_triton_makes_of_an_mlp(channels, response_norm, one_kernel, numbers, words):
    choice = choose(channels, 4 * channels, response_norm)
    assert (choice.one_kernel, choice.numbers) == (one_kernel, numbers) and words in choice.reason
