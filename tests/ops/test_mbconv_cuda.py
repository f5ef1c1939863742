"""mbconv and convnext_block of CUDA kernels, emulated or real: results, and what is composed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import effkern
from effkern.functional import convnext_block, mbconv
from effkern.ops.depthwise_conv2d import cuda_inference
from effkern.reference.depthwise_conv2d import ACTIVATIONS
from effkern.testing.blocks import check_block, distance, mapped
from effkern.testing.mbconv import problem, reference
from effkern.testing.poison import poisoned_memory

DEVICES = {"cuda_emulated": "cpu", "cuda": "cuda"}
PRESENT = [name for name in DEVICES if effkern.backends()[name] is True]
if not PRESENT:
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)

HALF, BFLOAT = torch.float16, torch.bfloat16
SMALL = {"batch": 2, "channels": 8, "hidden": 24, "out": 8, "size": (5, 6)}
# With squeeze-and-excitation in the depthwise kernel and beside it; without each part.
CASES = {
    "3x3": {"dtype": BFLOAT},
    "3x3, stride 2": {"dtype": HALF, "stride": 2, "out": 16, "without": ("residual",)},
    "5x5": {"dtype": HALF, "kernel": 5},
    "without squeeze-and-excitation": {"dtype": BFLOAT, "without": ("se",)},
    "without expansion": {"dtype": HALF, "channels": 16, "without": ("expand_weight",)},
    "without biases": {
        "dtype": BFLOAT, "without": ("expand_bias", "depthwise_bias", "project_bias"),
    },
    "hardsigmoid": {"dtype": BFLOAT, "names": ("relu", "hardsigmoid")},
}  # fmt: skip


@pytest.fixture(params=PRESENT)
def device(request):
    with poisoned_memory(DEVICES[request.param]), effkern.backend(request.param):
        yield DEVICES[request.param]


@pytest.fixture
def calls(monkeypatch, device):
    """The operators of kernels that were called, by name."""
    made = []
    found = cuda_inference.operators

    class Operators:
        def __getattr__(self, name):
            made.append(name)
            return getattr(found(), name)

    monkeypatch.setattr(cuda_inference, "operators", Operators)
    return made


def arguments_on(device, **keywords):
    return mapped(lambda tensor: tensor.to(device), problem(**(SMALL | keywords)))


def channels_last(arguments):
    last = torch.channels_last
    images = {name: arguments[name] for name in ("input", "residual") if name in arguments}
    return arguments | {
        name: None if t is None else t.contiguous(memory_format=last) for name, t in images.items()
    }


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_results(device, calls, case):
    check_block(mbconv, reference, arguments_on(device, **case), "channels_last", stages=5)
    assert len(calls) == 1 + ("expand_weight" not in case.get("without", ()))


@pytest.mark.parametrize("activation", (None, "gelu", "hardswish"))
def test_activations(device, calls, activation):
    arguments = arguments_on(device, dtype=HALF)
    check_block(mbconv, reference, arguments, "channels_last", 5, activation=activation)
    assert len(calls) == 2


def test_unbatched(device, calls):
    arguments = channels_last(arguments_on(device, dtype=BFLOAT))
    wanted = mbconv(**arguments)
    one = {name: arguments[name][1] for name in ("input", "residual")}
    torch.testing.assert_close(mbconv(**(arguments | one)), wanted[1])
    assert len(calls) == 4


@pytest.mark.parametrize(
    "change",
    ({"dtype": torch.float32}, {"hidden": 20}, {"out": 12}, {"batch": 0}, {"size": (1, 1)}),
    ids=str,
)
def test_composed(device, calls, change):
    """What the kernels do not take is no error."""
    arguments = channels_last(arguments_on(device, **({"dtype": HALF} | change)))
    torch.testing.assert_close(mbconv(**arguments), reference(**arguments), rtol=0.02, atol=0.02)
    assert not calls


def test_gradients_autocast_and_planes_are_composed(device, calls):
    arguments = channels_last(arguments_on(device, dtype=BFLOAT))
    planes = {name: arguments[name].contiguous() for name in ("input", "residual")}
    assert mbconv(**(arguments | planes)).is_contiguous()
    with torch.autocast(device, BFLOAT):
        mbconv(**arguments)
    compiled = torch.compile(mbconv, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**arguments), reference(**arguments), rtol=0.1, atol=0.1)
    arguments["project_weight"].requires_grad_()
    assert mbconv(**arguments).requires_grad
    assert not calls


def test_a_kernel_that_does_not_fit_is_the_convolutions_to_refuse(device):
    arguments = channels_last(arguments_on(device, dtype=HALF, kernel=5, without=("residual",)))
    with pytest.raises(RuntimeError, match="wanted a kernel that fits"):
        mbconv(**(arguments | {"padding": 0, "input": arguments["input"][:, :, :3]}))


def test_explained(device):
    arguments = channels_last(arguments_on(device, dtype=HALF))
    plan = effkern.explain(mbconv, **arguments).plans["forward"]
    assert plan.backend in PRESENT and plan.kernel.startswith("pointwise_kernel, depthwise")
    plan = effkern.explain(mbconv, **mapped(torch.Tensor.float, arguments)).plans["forward"]
    assert plan.backend == "torch" and "a dtype other than" in plan.reason


NORM = "depthwise_conv2d_layer_norm_forward"
RESPONSE_NORM = ("grn_weight", "grn_bias")


def convnext_problem(device, dtype, without=RESPONSE_NORM, channels=16):
    shapes = {
        "depthwise_weight": (channels, 1, 7, 7), "depthwise_bias": (channels,),
        "norm_weight": (channels,), "norm_bias": (channels,), "fc1_weight": (72, channels),
        "fc1_bias": (72,), "fc2_weight": (channels, 72), "fc2_bias": (channels,),
        "gamma": (channels,), "grn_weight": (72,), "grn_bias": (72,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(3)

    def draw(shape):
        fan_in = shape[-1] * (shape[-2] if len(shape) == 4 else 1)
        scale = fan_in**-0.5 if len(shape) > 1 else 1
        return (torch.randn(shape, generator=generator) * scale).to(device, dtype)

    tensors = {"input": draw((2, channels, 5, 9)) * 4}
    tensors |= {name: draw(shape) for name, shape in shapes.items()}
    tensors["residual"] = None
    return {name: None if name in without else t for name, t in channels_last(tensors).items()}


def convnext(residual, **arguments):
    return convnext_block(**arguments)


def convnext_reference(input, depthwise_weight, depthwise_bias, norm_weight, norm_bias, fc1_weight,
                       fc1_bias, fc2_weight, fc2_bias, gamma, grn_weight, grn_bias, residual,
                       activation="gelu"):  # fmt: skip
    y = F.conv2d(input, depthwise_weight, depthwise_bias, padding=3, groups=input.shape[1])
    y = F.layer_norm(y.permute(0, 2, 3, 1), (y.shape[1],), norm_weight, norm_bias, 1e-6)
    y = ACTIVATIONS[activation](F.linear(y, fc1_weight, fc1_bias))
    if grn_weight is not None:
        norms = y.norm(dim=(1, 2), keepdim=True)
        y = y + grn_weight * (y * (norms / (norms.mean(-1, keepdim=True) + 1e-6))) + grn_bias
    y = F.linear(y, fc2_weight, fc2_bias)
    return input + (y if gamma is None else y * gamma).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", (HALF, BFLOAT), ids=str)
@pytest.mark.parametrize("without", ((), ("gamma", "fc1_bias", "fc2_bias")), ids=str)
@pytest.mark.parametrize(
    "channels, products", ((16, ["fused_mbconv"]), (104, ["pointwise", "pointwise"]))
)
def test_convnext_block(device, calls, channels, products, dtype, without):
    """Both products in one kernel, or one after the other."""
    arguments = convnext_problem(device, dtype, (*without, *RESPONSE_NORM), channels)
    check_block(convnext, convnext_reference, arguments, "channels_last", stages=4)
    assert calls == [NORM, *products]
    check_block(convnext, convnext_reference, arguments, "channels_last", 4, activation="silu")


@pytest.mark.parametrize("without", ((), ("fc2_bias", "gamma")), ids=str)
def test_response_normalisation(device, calls, without):
    """ConvNeXt V2: the norms of each image between the products."""
    arguments = convnext_problem(device, BFLOAT, without)
    check_block(convnext, convnext_reference, arguments, "channels_last", stages=5)
    assert calls == [NORM, "pointwise", "pointwise"]


def test_convnext_blocks_that_are_composed(device, calls):
    arguments = convnext_problem(device, BFLOAT)
    arguments.pop("residual")
    wide = {name: None if t is None else t.double() for name, t in arguments.items()}
    exact = convnext_reference(**wide, residual=None)
    planes = arguments | {"input": arguments["input"].contiguous()}
    scaled = arguments | {"sample_scale": torch.ones(2, dtype=BFLOAT, device=device)}
    single = {name: None if t is None else t.float() for name, t in arguments.items()}
    for given in (planes, scaled, single):
        assert distance(convnext_block(**given), exact) < 0.02
    nothing = {"fc1_weight": (0, 16), "fc1_bias": (0,), "fc2_weight": (16, 0)}
    nothing = {
        name: torch.empty(shape, dtype=BFLOAT, device=device) for name, shape in nothing.items()
    }
    assert convnext_block(**(arguments | nothing)).isfinite().all()
    arguments["gamma"].requires_grad_()
    assert convnext_block(**arguments).requires_grad
    # But for images that are not channels_last.
    assert calls == 4 * [NORM]


def test_convnext_block_explained(device):
    arguments = convnext_problem(device, HALF)
    arguments.pop("residual")
    plan = effkern.explain(convnext_block, **arguments).plans["forward"]
    assert plan.backend in PRESENT and plan.kernel.endswith(
        "layer_norm_kernel, fused_mbconv_kernel"
    )
    second = convnext_problem(device, HALF, ())
    second.pop("residual")
    plan = effkern.explain(convnext_block, **second).plans["forward"]
    assert plan.backend in PRESENT and "linalg_vector_norm" in plan.kernel
    odd = arguments | {"depthwise_weight": torch.ones(16, 1, 9, 9).to(device, HALF), "padding": 4}
    plan = effkern.explain(convnext_block, **odd).plans["forward"]
    assert "aten::native_layer_norm, fused_mbconv_kernel" in plan.kernel
    assert "LayerNorm is composed" in plan.reason
    wide = convnext_problem(device, HALF, ("residual", *RESPONSE_NORM), 104)
    wide.pop("residual")
    plan = effkern.explain(convnext_block, **wide).plans["forward"]
    assert plan.backend in PRESENT and plan.kernel.endswith("pointwise_kernel, pointwise_kernel")
    arguments["input"] = arguments["input"].contiguous()
    plan = effkern.explain(convnext_block, **arguments).plans["forward"]
    assert plan.backend == "torch" and "not channels_last" in plan.reason
