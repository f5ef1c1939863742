"""mbconv and convnext_block on Triton: which calls their kernels take, as what, and explain."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern import _triton
from effkern.functional import convnext_block, fused_mbconv, mbconv
from effkern.ops.mbconv import mbconv_with_norm
from effkern.testing.blocks import distance, mapped
from effkern.testing.poison import poisoned_memory

if not _triton.interpreting():
    pytest.skip("wanted a process with TRITON_INTERPRET=1", allow_module_level=True)

from effkern.triton_kernels.depthwise_conv2d import launch as depthwise_launch  # noqa: E402
from effkern.triton_kernels.fused_mbconv import configs  # noqa: E402
from effkern.triton_kernels.fused_mbconv import launch as fused_launch  # noqa: E402
from effkern.triton_kernels.pointwise import launch as pointwise_launch  # noqa: E402


@pytest.fixture(autouse=True)
def interpreted():
    with poisoned_memory("cpu"), effkern.backend("triton_interpreted"):
        yield


@pytest.fixture
def launched(monkeypatch):
    """Names of the products' kernels that were launched, with what the tensors before and after
    the product were."""
    found = []
    for name, module in (("fused_mbconv", fused_launch), ("pointwise", pointwise_launch)):

        def counted(*arguments, forward=module.forward, name=name, **operands):
            present = [k for k, v in operands.items() if isinstance(v, torch.Tensor)]
            found.append((f"{name}_kernel", *present))
            return forward(*arguments, **operands)

        monkeypatch.setattr(module, "forward", counted)
    return found


def draw(*shape, scale=1.0, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def inverted_residual(dtype=torch.float32):
    tensors = {
        "input": draw(2, 8, 5, 6).contiguous(memory_format=torch.channels_last),
        "expand_weight": draw(24, 8, scale=0.3),
        "expand_bias": draw(24),
        "depthwise_weight": draw(24, 1, 3, 3, scale=0.3),
        "depthwise_bias": draw(24, seed=8),
        "se": (draw(4, 24, scale=0.2), draw(4), draw(24, 4, scale=0.5), draw(24), "relu"),
        "project_weight": draw(8, 24, scale=0.2),
        "project_bias": draw(8, seed=9),
        "residual": draw(2, 8, 5, 6, seed=10),
    }
    tensors = mapped(lambda t: t.to(dtype), tensors)
    return tensors | {"se": (*tensors["se"], "sigmoid"), "padding": 1}


def convnext(grn=False, dtype=torch.float32):
    hidden = 24
    tensors = {
        "input": draw(2, 8, 5, 6).contiguous(memory_format=torch.channels_last),
        "depthwise_weight": draw(8, 1, 7, 7, scale=0.2),
        "depthwise_bias": draw(8),
        "norm_weight": draw(8),
        "norm_bias": draw(8, seed=8),
        "fc1_weight": draw(hidden, 8, scale=0.3),
        "fc1_bias": draw(hidden),
        "fc2_weight": draw(8, hidden, scale=0.2),
        "fc2_bias": draw(8, seed=9),
        "gamma": draw(8, seed=10),
    }
    if grn:
        tensors |= {"grn_weight": draw(hidden, seed=11), "grn_bias": draw(hidden, seed=12)}
    return mapped(lambda t: t.to(dtype), tensors)


def by_torch(function, arguments):
    with effkern.backend("torch"):
        return function(**arguments)


PROJECTION = ("pointwise_kernel", "gate", "residual")


def test_an_inverted_residual_is_two_products_around_the_convolution(launched):
    arguments = inverted_residual()
    actual = mbconv(**arguments)
    assert launched == [("pointwise_kernel",), PROJECTION]
    torch.testing.assert_close(actual, by_torch(mbconv, arguments), rtol=1e-4, atol=1e-5)
    unbatched = {name: arguments[name][1] for name in ("input", "residual")}
    torch.testing.assert_close(mbconv(**(arguments | unbatched)), actual[1])
    empty = {name: arguments[name][:0] for name in ("input", "residual")}
    assert mbconv(**(arguments | empty)).shape == (0, 8, 5, 6)
    assert launched == 2 * [("pointwise_kernel",), PROJECTION]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_gate_before_the_norm(launched, dtype):
    """coatnet_0_rw: scale and gate are one factor in the projection."""
    arguments = inverted_residual(dtype) | {"stride": 2, "residual": None, "activation": "silu"}
    arguments["norm"] = (draw(24, seed=13).to(dtype), draw(24, seed=14).to(dtype))
    exact = by_torch(mbconv_with_norm, mapped(torch.Tensor.double, arguments))
    torch_error = distance(by_torch(mbconv_with_norm, arguments), exact)
    error = distance(mbconv_with_norm(**arguments), exact)
    assert error <= 2 * torch_error + torch.finfo(dtype).eps
    assert launched == [("pointwise_kernel",), ("pointwise_kernel", "gate", "shift")]


@pytest.mark.parametrize("most", (0, 256))
def test_an_mlp_is_one_kernel_while_its_sums_fit(monkeypatch, launched, most):
    monkeypatch.setattr(configs, "MOST_OUT", most)
    arguments = convnext() | {"sample_scale": torch.tensor([0.5, 2.0])}
    actual = convnext_block(**arguments)
    wanted = by_torch(convnext_block, arguments)
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
    scales = ("scale", "sample_scale")
    two = [("pointwise_kernel",), ("pointwise_kernel", *scales, "residual")]
    assert launched == ([("fused_mbconv_kernel", *scales)] if most else two)


def test_response_norm_is_the_prologue_of_fc2(launched):
    arguments = convnext(grn=True)
    actual = convnext_block(**arguments)
    torch.testing.assert_close(actual, by_torch(convnext_block, arguments), rtol=1e-4, atol=1e-5)
    fc2 = ("pointwise_kernel", "gate", "shift", "scale", "residual")
    assert launched == [("pointwise_kernel",), fc2]


@pytest.mark.parametrize("function", (mbconv, convnext_block), ids=lambda f: f.__name__)
def test_other_calls_are_composed(launched, function):
    arguments = inverted_residual() if function is mbconv else convnext()
    wanted = by_torch(function, arguments)
    rest = {name: value for name, value in arguments.items() if name != "input"}
    leaf = arguments["input"].clone().requires_grad_()
    output = function(leaf, **rest)
    assert output.requires_grad
    torch.testing.assert_close(output.detach(), wanted, rtol=1e-4, atol=1e-5)
    gradient = torch.func.grad(lambda x: function(x, **rest).square().sum())(arguments["input"])
    assert gradient.shape == arguments["input"].shape
    wide = function(**mapped(torch.Tensor.double, arguments))
    torch.testing.assert_close(wide.float(), wanted, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert distance(function(**arguments), wide) < 0.05
    assert not launched


def test_limits_name_the_function(monkeypatch):
    monkeypatch.setattr(depthwise_launch, "_MOST_PIXELS", 5)
    words = "input: wanted at most 5 rows, columns and pixels of padding .* got 6"
    with pytest.raises(RuntimeError, match=f"^effkern.mbconv: {words}"):
        mbconv(**inverted_residual())
    with pytest.raises(RuntimeError, match=f"^effkern.depthwise_conv2d_layer_norm: {words}"):
        convnext_block(**convnext())
    weight = draw(16, 8, 3, 3)
    with pytest.raises(RuntimeError, match=f"^effkern.fused_mbconv: {words}"):
        fused_mbconv(draw(1, 8, 5, 6), weight, None, None, None)


def explained(function, arguments):
    return effkern.explain(function, **arguments).plans["forward"]


def products(plan):
    """The kernels of products that a plan names."""
    return [name for name in plan.kernel.split(", ") if name in KERNELS]


KERNELS = ("fused_mbconv_kernel", "pointwise_kernel")


def test_explain_of_an_inverted_residual(launched):
    arguments = inverted_residual(torch.bfloat16)
    plan = explained(mbconv, arguments)
    assert plan.backend == "triton_interpreted"
    assert plan.kernel == "pointwise_kernel, stencil_kernel, aten::sum, pointwise_kernel"
    # Expansion, convolution, its sums, projection, in numbers per pixel.
    assert plan.dram_bytes == 2 * 2 * 30 * ((8 + 24) + (24 + 24) + 24 + (24 + 8 + 8))
    mbconv(**arguments)
    assert [name for name, *_ in launched] == products(plan)
    assert explained(mbconv, arguments | {"se": None}).dram_bytes < plan.dram_bytes
    arguments["input"].requires_grad_()
    assert explained(mbconv, arguments).backend == "torch"


@pytest.mark.parametrize("most", (0, 256))
def test_explain_of_an_mlp(monkeypatch, launched, most):
    monkeypatch.setattr(configs, "MOST_OUT", most)
    arguments = convnext()
    plan = explained(convnext_block, arguments)
    assert plan.kernel.startswith("depthwise_conv2d_layer_norm_kernel, ")
    # Convolution, then what is normalised, residual and output; activations in and out.
    assert plan.dram_bytes == 4 * 2 * 30 * (5 * 8 + (0 if most else 2 * 24))
    assert ("one kernel: 48 numbers" if most else "8 channels do not fit") in plan.reason
    convnext_block(**arguments)
    assert [name for name, *_ in launched] == products(plan)


def test_explain_of_other_norms():
    arguments = convnext(grn=True)
    plan = explained(convnext_block, arguments)
    assert "response normalisation" in plan.reason and products(plan) == 2 * ["pointwise_kernel"]
    assert plan.dram_bytes == 4 * 2 * 30 * (5 * 8 + 3 * 24)
    larger = {"depthwise_weight": draw(8, 1, 9, 9), "padding": 4}
    plan = explained(convnext_block, convnext() | larger)
    assert plan.kernel == "stencil_kernel, aten::native_layer_norm, fused_mbconv_kernel"
