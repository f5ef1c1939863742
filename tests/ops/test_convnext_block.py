"""convnext_block: against the same of torch's operators in float64, and under torch's machinery."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from effkern.triton_kernels.fused_mbconv import configs

import effkern
from effkern import _library
from effkern.functional import convnext_block
from effkern.ops.convnext_block import autograd
from effkern.testing.poison import poisoned_memory
from effkern.testing.problems import with_layout

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NAMES = (
    "input", "depthwise_weight", "depthwise_bias", "norm_weight", "norm_bias", "fc1_weight",
    "fc1_bias", "fc2_weight", "fc2_bias", "gamma",
)  # fmt: skip
GRN = ("grn_weight", "grn_bias")

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
both_layouts = pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
both_saves = pytest.mark.parametrize("save", ("minimal", "all"))


@pytest.fixture(autouse=True)
def fresh_memory_full_of_nan():
    with poisoned_memory("cpu"):
        yield


def problem(
    batch=3, channels=16, hidden=40, size=(9, 8), dtype=torch.float32, without=(), grn=False
):
    """The arguments by name; those in `without` are None."""
    generator = torch.Generator().manual_seed(17)

    def draw(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    tensors = {
        "input": draw(batch, channels, *size),
        "depthwise_weight": draw(channels, 1, 7, 7, scale=1 / 7),
        "fc1_weight": draw(hidden, channels, scale=channels**-0.5),
        "fc1_bias": draw(hidden),
        "fc2_weight": draw(channels, hidden, scale=hidden**-0.5),
        **{name: draw(channels) for name in NAMES if name[-4:] in ("bias", "amma")},
        "norm_weight": draw(channels),
    }
    tensors["fc1_bias"] = draw(hidden)
    if grn:
        tensors |= {name: draw(hidden) for name in GRN}
    return {name: None if name in without else tensors[name] for name in (*NAMES, *(GRN * grn))}


def reference(input, depthwise_weight, depthwise_bias, norm_weight, norm_bias, fc1_weight, fc1_bias,
              fc2_weight, fc2_bias, gamma=None, grn_weight=None, grn_bias=None,
              sample_scale=None, activation=F.gelu, eps=1e-6):  # fmt: skip
    y = F.conv2d(input, depthwise_weight, depthwise_bias, padding=3, groups=input.shape[1])
    y = F.layer_norm(y.permute(0, 2, 3, 1), (y.shape[1],), norm_weight, norm_bias, eps)
    y = activation(F.linear(y, fc1_weight, fc1_bias))
    if grn_weight is not None:
        norm = y.square().sum((1, 2), keepdim=True).sqrt()
        norm = norm / (norm.mean(-1, keepdim=True) + 1e-6)
        y = y + grn_weight * y * norm + grn_bias
    y = F.linear(y, fc2_weight, fc2_bias)
    y = y if gamma is None else y * gamma
    y = y if sample_scale is None else y * sample_scale[:, None, None, None]
    return input + y.permute(0, 3, 1, 2)


def results(function, tensors, grad, **keywords):
    """The output, then the gradients of the tensors that are not None."""
    leaves = {k: None if t is None else t.detach().requires_grad_() for k, t in tensors.items()}
    output = function(**leaves, **keywords)
    wanted = [t for t in leaves.values() if t is not None]
    return output, *torch.autograd.grad(output, wanted, grad.to(output.dtype))


def distances(actual, exact):
    """The norms of the errors over those of the exact results."""
    return [
        float((a.double() - e).norm() / e.norm().clamp(min=1e-300))
        for a, e in zip(actual, exact, strict=True)
    ]


def check(tensors, dtype, layout="contiguous", exact_keywords=None, **keywords):
    """Errors in norm are at most twice those of torch's operators and a rounding unit."""
    tensors["input"] = with_layout(tensors["input"], layout)
    grad = torch.randn(tensors["input"].shape, generator=torch.Generator().manual_seed(2))
    grad = with_layout(grad.to(dtype), layout)
    wide = {k: None if t is None else t.double() for k, t in tensors.items()}
    scale = {k: v for k, v in keywords.items() if k == "sample_scale"}
    wide_scale = {k: v.double() for k, v in scale.items()}
    exact_keywords = exact_keywords or {}
    exact = results(reference, wide, grad.double(), **wide_scale, **exact_keywords)
    by_torch = results(reference, tensors, grad, **scale, **exact_keywords)
    actual = results(convnext_block, tensors, grad, **keywords)
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    names = ("output", *(name for name, t in tensors.items() if t is not None))
    bounds = [2 * d + torch.finfo(dtype).eps for d in distances(by_torch, exact)]
    if dtype == torch.float64:
        # Nothing here is more exact: a rounding unit for each of the sums on the way.
        bounds = [2 * 5 * torch.finfo(dtype).eps] * len(bounds)
    for name, error, bound, got, want in zip(
        names, distances(actual, exact), bounds, actual, by_torch, strict=True
    ):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert error <= bound, f"{name}: {error} of at most {bound}"


@all_dtypes
@both_layouts
@both_saves
@pytest.mark.parametrize("scaled", (False, True), ids=("", "sample_scale"))
def test_results(scaled, save, layout, dtype):
    scale = {"sample_scale": torch.tensor([0.0, 1.25, 1.25], dtype=dtype)} if scaled else {}
    check(problem(dtype=dtype), dtype, layout, save=save, **scale)


@both_saves
@pytest.mark.parametrize(
    "without",
    (
        ("gamma",),
        ("depthwise_bias", "norm_weight", "fc1_bias", "fc2_bias"),
        ("norm_bias", "fc2_bias", "gamma"),
    ),
    ids=str,
)
def test_without(without, save):
    check(problem(without=without), torch.float32, save=save)
    scale = torch.tensor([0.0, 2.0, 0.5])
    check(problem(without=without), torch.float32, save=save, sample_scale=scale)


@both_saves
@pytest.mark.parametrize("name", ("gelu", "gelu_tanh", "silu", "relu", None))
def test_activations(name, save):
    functions = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "relu": F.relu,
        None: lambda x: x,
    }
    keywords = {"activation": name, "save": save}
    check(problem(), torch.float32, exact_keywords={"activation": functions[name]}, **keywords)


@both_saves
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("hidden, batch", ((24, 7), (320, 3)))
def test_several_chunks(monkeypatch, hidden, batch, dtype, save):
    """The last one is shorter; layer scale goes into the weight, or does not."""
    monkeypatch.setattr(autograd, "_MIN_PIXELS", 50)
    monkeypatch.setattr(autograd, "_CHUNK_BYTES", 0)
    check(problem(batch=batch, hidden=hidden, dtype=dtype), dtype, "channels_last", save=save)
    tensors = problem(batch=batch, hidden=hidden, dtype=dtype, without=("gamma", "fc2_bias"))
    check(tensors, dtype, "channels_last", save=save)


@both_saves
@both_layouts
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_response_norm(dtype, layout, save):
    check(problem(dtype=dtype, grn=True), dtype, layout, save=save)


@both_saves
@pytest.mark.parametrize("grn", (False, True), ids=("v1", "v2"))
def test_gradcheck(grn, save):
    tensors = problem(1, 2, 3, (2, 3), torch.float64, grn=grn)
    scale = torch.tensor([1.5], dtype=torch.float64)

    def function(*values):
        named = dict(zip(tensors, values, strict=True))
        return convnext_block(**named, eps=1e-2, save=save, sample_scale=scale)

    leaves = [t.requires_grad_() for t in tensors.values()]
    assert torch.autograd.gradcheck(function, leaves)
    # Along random directions: one by one, the numbers take half a minute.
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_gradient_of_one_argument_alone():
    tensors = problem(dtype=torch.float64)
    grad = torch.randn(tensors["input"].shape, dtype=torch.float64)
    wanted = results(convnext_block, tensors, grad)[1:]
    for (name, tensor), want in zip(tensors.items(), wanted, strict=True):
        leaf = tensor.detach().requires_grad_()
        output = convnext_block(**(tensors | {name: leaf}))
        (got,) = torch.autograd.grad(output, leaf, grad)
        torch.testing.assert_close(got, want)


def test_inference_unbatched_and_empty():
    tensors = problem()
    with torch.no_grad():
        output = convnext_block(**tensors)
    torch.testing.assert_close(output, reference(**tensors))
    alone = convnext_block(**(tensors | {"input": tensors["input"][1]}))
    torch.testing.assert_close(alone, output[1])
    empty = problem(batch=0)
    output, *gradients = results(convnext_block, empty, torch.zeros(0, 16, 9, 8))
    assert output.shape == (0, 16, 9, 8)
    assert not any(g.any() for g in gradients)


def test_saved_tensors():
    """ "minimal" keeps the input and two numbers per pixel, nothing with 4C channels."""
    tensors = problem(batch=4, channels=16, hidden=64, size=(16, 16))
    sizes = {}
    for save in ("minimal", "all"):
        leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
        leaves["input"] = leaves["input"].detach().contiguous(memory_format=torch.channels_last)
        parameters = {t.data_ptr() for t in leaves.values()}
        saved = {}

        def pack(tensor, saved=saved, parameters=parameters):
            if tensor.data_ptr() not in parameters:
                saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            convnext_block(**leaves, save=save)
        sizes[save] = sum(saved.values())
    pixels = 4 * 16 * 16
    assert sizes["minimal"] == 2 * pixels
    assert sizes["all"] == (2 + 16 + 2 * 64) * pixels


def test_two_runs_are_equal():
    tensors, grad = problem(batch=8, size=(14, 14)), torch.randn(8, 16, 14, 14)
    first, second = (results(convnext_block, tensors, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("grn", (False, True), ids=("v1", "v2"))
def test_compile(grn):
    tensors, grad = problem(grn=grn), torch.randn(3, 16, 9, 8)
    compiled = torch.compile(convnext_block, fullgraph=True, dynamic=True)
    for actual, wanted in zip(
        results(compiled, tensors, grad), results(reference, tensors, grad), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


@both_saves
def test_autocast(save):
    tensors, grad = problem(), torch.randn(3, 16, 9, 8)
    exact = results(reference, {k: t.double() for k, t in tensors.items()}, grad.double())
    with torch.autocast("cpu", torch.bfloat16):
        actual = results(convnext_block, tensors, grad, save=save)
    assert all(t.dtype == torch.float32 for t in actual)
    assert max(distances(actual, exact)) < 0.03


def test_other_backends_and_transforms():
    tensors = problem()
    wanted = reference(**tensors)
    with effkern.backend("torch"):
        torch.testing.assert_close(convnext_block(**tensors), wanted)
    rest = {k: t for k, t in tensors.items() if k != "input"}
    gradient = torch.func.grad(lambda x: convnext_block(x, **rest).square().sum())
    expected = torch.func.grad(lambda x: reference(x, **rest).square().sum())
    torch.testing.assert_close(gradient(tensors["input"]), expected(tensors["input"]))


# For GPUs one kernel after the LayerNorm or, with more channels than `most`, two products.
KERNEL_CASES = {
    "one kernel": {},
    "one kernel, no biases": {"without": ("fc1_bias", "fc2_bias", "gamma", "norm_weight")},
    "one kernel, odd": {"channels": 9, "hidden": 37, "size": (5, 4)},
    "two products": {"most": 0, "channels": 24, "hidden": 72},
    "two products, no biases": {"most": 0, "without": ("fc1_bias", "fc2_bias", "gamma")},
    "response norm": {"grn": True},
}


@pytest.mark.parametrize("scaled", (False, True), ids=("", "sample_scale"))
@pytest.mark.parametrize("dtype", (DTYPES[0], *DTYPES[2:]), ids=lambda dtype: str(dtype)[6:])
@both_layouts
@pytest.mark.parametrize("name", KERNEL_CASES)
def test_same_as_composed(monkeypatch, backend, name, layout, dtype, scaled):
    if backend.name.startswith("cuda"):
        pytest.skip("its kernels take fewer calls: test_mbconv_cuda.py")
    case = dict(KERNEL_CASES[name])
    monkeypatch.setattr(configs, "MOST_OUT", case.pop("most", configs.MOST_OUT))
    tensors = {k: t if t is None else t.to(backend.device) for k, t in
               problem(dtype=dtype, **case).items()}  # fmt: skip
    if scaled:
        tensors["sample_scale"] = tensors["input"].new_tensor([0.0, 1.25, 1.25])
    tensors["input"] = with_layout(tensors["input"], layout)
    wide = {k: None if t is None else t.double() for k, t in tensors.items()}
    exact, by_torch = reference(**wide), reference(**tensors)
    actual = convnext_block(**tensors)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert (actual.dtype, actual.shape) == (by_torch.dtype, by_torch.shape)
    error, torch_error = distances((actual, by_torch), (exact, exact))
    assert error <= 2 * torch_error + torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "change, error, words",
    (
        ({"input": 3}, TypeError, "input: wanted a Tensor, got int"),
        ({"gamma": 1.0}, TypeError, "gamma: wanted a Tensor or None, got float"),
        ({"input": torch.zeros(9, 8)}, RuntimeError, r"input: wanted \(C, H, W\)"),
        ({"depthwise_weight": torch.zeros(16, 7, 7)}, RuntimeError, "depthwise_weight: wanted"),
        ({"depthwise_weight": torch.zeros(32, 1, 7, 7)}, RuntimeError, "depthwise_weight: wanted"),
        ({"fc1_weight": torch.zeros(40, 8)}, RuntimeError, r"fc1_weight: wanted shape \(40, 16\)"),
        ({"fc2_weight": torch.zeros(40, 16)}, RuntimeError, r"fc2_weight: wanted shape \(16, 40\)"),
        ({"fc2_weight": torch.zeros(16, 40).half()}, RuntimeError, "fc2_weight: wanted torch.fl"),
        ({"gamma": torch.zeros(16, 1, 1)}, RuntimeError, r"gamma: wanted shape \(16,\)"),
        ({"norm_bias": torch.zeros(16, device="meta")}, RuntimeError, "norm_bias: wanted device"),
        ({"sample_scale": torch.zeros(2)}, RuntimeError, r"sample_scale: wanted shape \(3,\)"),
        ({"grn_bias": torch.zeros(40)}, RuntimeError, "grn_bias: wanted the other one"),
        ({"padding": 2}, RuntimeError, "padding: wanted one that keeps the image's size"),
        ({"padding": -1}, RuntimeError, "padding: wanted values >= 0"),
        ({"activation": "mish"}, ValueError, "activation: wanted one of"),
        ({"save": "some"}, ValueError, "save: wanted 'minimal' or 'all', got 'some'"),
    ),
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input(change, error, words):
    with pytest.raises(error, match=rf"^effkern\.convnext_block: {words}"):
        convnext_block(**(problem() | change))
