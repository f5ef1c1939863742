"""mbconv: against the same of torch's operators in float64, and under torch's machinery."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import effkern
from effkern import _library
from effkern.functional import mbconv
from effkern.ops.mbconv import pixels
from effkern.reference.depthwise_conv2d import ACTIVATIONS
from effkern.testing.blocks import check_block, distance, mapped, tensors_of
from effkern.testing.mbconv import GATES, problem, reference
from effkern.testing.poison import poisoned_memory
from effkern.testing.problems import with_layout

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
both_layouts = pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
inference = pytest.mark.parametrize("grad", (False, True), ids=("no_grad", "grad"))


@pytest.fixture(autouse=True)
def fresh_memory_full_of_nan():
    with poisoned_memory("cpu"):
        yield


def check(arguments, layout="contiguous", **keywords):
    check_block(mbconv, reference, arguments, layout, stages=5, **keywords)


@all_dtypes
@both_layouts
@inference
@pytest.mark.parametrize("kernel, stride", ((3, 1), (3, 2), (5, 1), (5, 2)))
def test_results(kernel, stride, grad, layout, dtype):
    arguments = problem(kernel=kernel, stride=stride, dtype=dtype)
    arguments["project_weight"].requires_grad_(grad)
    check(arguments, layout)


@both_layouts
@inference
@pytest.mark.parametrize("out", (8, 100))
@pytest.mark.parametrize(
    "without",
    (
        ("se",),
        ("residual",),
        ("expand_weight", "residual"),
        ("expand_bias", "depthwise_bias", "project_bias"),
        ("expand_weight", "se", "residual", "project_bias"),
        ("project_bias", "residual"),
    ),
    ids=str,
)
def test_without(without, out, grad, layout):
    """The gate goes into the projection's weight, or, with more channels than pixels, does not."""
    arguments = problem(without=without, out=out)
    arguments["depthwise_weight"].requires_grad_(grad)
    check(arguments, layout)


@inference
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, grad):
    for gate in GATES:
        arguments = problem(names=(name, gate))
        arguments["project_weight"].requires_grad_(grad)
        check(arguments, activation=name)


@both_layouts
@pytest.mark.parametrize("out", (8, 100))
def test_several_chunks_of_images(monkeypatch, out, layout):
    """The last one is shorter."""
    monkeypatch.setattr(pixels, "CHUNK_BYTES", 2 * 24 * 9 * 8 * 4)
    for without in ((), ("residual",), ("expand_weight",)):
        check(problem(batch=5, out=out, without=without), layout)


@pytest.mark.parametrize("layout", ("transposed", "sliced"))
def test_strides(layout):
    check(problem(), layout)


def test_arguments_stay_as_they_are():
    for without in ((), ("expand_weight",), ("expand_weight", "residual")):
        arguments = problem(without=without, out=100)
        before = mapped(torch.Tensor.clone, arguments)
        mbconv(**arguments)
        for a, b in zip(tensors_of(arguments), tensors_of(before), strict=True):
            assert torch.equal(a, b)


def test_padding_of_each_side():
    arguments = problem(stride=2, without=("residual",))
    wanted = reference(**(arguments | {"input": F.pad(arguments["input"], (0, 1, 0, 1)),
                                       "expand_bias": None, "padding": 0}))  # fmt: skip
    arguments |= {"padding": ((0, 1), (0, 1)), "expand_bias": None}
    torch.testing.assert_close(mbconv(**arguments), wanted, rtol=1e-4, atol=1e-5)


def test_weights_as_matrices_unbatched_and_empty():
    arguments = problem()
    wanted = mbconv(**arguments)
    flat = mapped(lambda t: t.flatten(1) if t.shape[2:] == (1, 1) else t, arguments)
    assert torch.equal(mbconv(**flat), wanted)
    one = {name: arguments[name][1] for name in ("input", "residual")}
    torch.testing.assert_close(mbconv(**(arguments | one)), wanted[1])
    empty = {name: arguments[name][:0] for name in ("input", "residual")}
    assert mbconv(**(arguments | empty)).shape == (0, *wanted.shape[1:])


def test_gradcheck():
    arguments = problem(1, 2, 3, 2, (3, 4), dtype=torch.float64, reduced=2)
    leaves = [t.requires_grad_() for t in tensors_of(arguments)]

    def function(*values):
        order = iter(values)
        return mbconv(**mapped(lambda _: next(order), arguments))

    assert torch.autograd.gradcheck(function, leaves)


def test_compile():
    arguments = problem()
    arguments["expand_weight"].requires_grad_()
    compiled = torch.compile(mbconv, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(**arguments), reference(**arguments), rtol=1e-4, atol=1e-4)


def test_autocast():
    arguments = problem()
    exact = reference(**mapped(torch.Tensor.double, arguments))
    with torch.autocast("cpu", torch.bfloat16):
        actual = mbconv(**arguments)
        assert actual.dtype == reference(**arguments).dtype
    assert distance(actual, exact) < 0.03


def test_transforms_and_torchs_backend():
    arguments = problem()
    with effkern.backend("torch"):
        torch.testing.assert_close(mbconv(**arguments), reference(**arguments))
    input = arguments.pop("input")
    gradient = torch.func.grad(lambda x: mbconv(x, **arguments).square().sum())(input)
    wanted = torch.func.grad(lambda x: reference(x, **arguments).square().sum())(input)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


@both_layouts
def test_other_backends_are_composed(backend, layout):
    arguments = mapped(lambda t: t.to(backend.device), problem(stride=2))
    arguments["input"] = with_layout(arguments["input"], layout)
    wanted = reference(**arguments)
    torch.testing.assert_close(mbconv(**arguments), wanted, rtol=1e-4, atol=1e-4)


# Of a GPU's tiles: more than one, channels that fill none, each part of the block missing.
KERNEL_CASES = {
    "stride 2": {"channels": 24, "hidden": 72, "out": 40, "size": (11, 9), "stride": 2},
    "5x5 relu": {"kernel": 5, "hidden": 40, "names": ("relu", "hardsigmoid")},
    "odd gelu": {"channels": 3, "hidden": 21, "out": 7, "size": (5, 4), "reduced": 1},
    "no expansion hardswish": {"out": 16, "without": ("expand_weight", "residual")},
    "no se relu6": {"without": ("se",)},
    "no biases": {"without": ("expand_bias", "depthwise_bias", "project_bias")},
}


@pytest.mark.parametrize("dtype", (DTYPES[0], *DTYPES[2:]), ids=lambda dtype: str(dtype)[6:])
@both_layouts
@pytest.mark.parametrize("name", KERNEL_CASES)
def test_same_as_composed(backend, name, layout, dtype):
    if backend.name.startswith("cuda"):
        pytest.skip("its kernels take fewer calls: test_mbconv_cuda.py")
    arguments = problem(dtype=dtype, **KERNEL_CASES[name])
    last = name.split()[-1]
    check(
        mapped(lambda t: t.to(backend.device), arguments),
        layout,
        activation=last if last in ACTIVATIONS else "silu",
    )


def se_with(place, value):
    return {"se": (*problem()["se"][:place], value, *problem()["se"][place + 1 :])}


@pytest.mark.parametrize(
    "change, error, words",
    (
        ({"input": 3}, TypeError, "input: wanted a Tensor, got int"),
        ({"input": torch.zeros(9, 8)}, RuntimeError, r"input: wanted \(C, H, W\)"),
        ({"residual": 1.0}, TypeError, "residual: wanted a Tensor or None, got float"),
        ({"residual": torch.zeros(3, 8, 9, 7)}, RuntimeError, r"residual: wanted shape \(3, 8, 9"),
        ({"residual": torch.zeros(3, 8, 9, 8).half()}, RuntimeError, "residual: wanted torch.floa"),
        ({"expand_weight": None}, RuntimeError, "expand_bias: wanted with expand_weight"),
        ({"expand_weight": torch.zeros(24, 9)}, RuntimeError, r"expand_weight: wanted \(rows, 8\)"),
        ({"expand_weight": torch.zeros(24, 8, 3, 3)}, RuntimeError, "expand_weight: wanted"),
        ({"expand_bias": torch.zeros(8)}, RuntimeError, r"expand_bias: wanted shape \(24,\)"),
        ({"depthwise_weight": torch.zeros(8, 1, 3, 3)}, RuntimeError, "depthwise_weight: wanted"),
        ({"depthwise_bias": torch.zeros(24, device="meta")}, RuntimeError, "depthwise_bias: wante"),
        ({"project_weight": torch.zeros(8, 8)}, RuntimeError, "project_weight: wanted"),
        ({"project_bias": torch.zeros(24)}, RuntimeError, r"project_bias: wanted shape \(8,\)"),
        ({"se": 3}, TypeError, "se: wanted None or a tuple, got int"),
        ({"se": (1, 2)}, RuntimeError, r"se: wanted \(reduce_weight, .*, got 2 values"),
        (se_with(0, None), TypeError, "se.reduce_weight: wanted a Tensor, got NoneType"),
        (se_with(0, torch.zeros(4, 8)), RuntimeError, r"se.reduce_weight: wanted \(rows, 24\)"),
        (se_with(1, torch.zeros(5)), RuntimeError, r"se.reduce_bias: wanted shape \(4,\)"),
        (se_with(2, torch.zeros(8, 4)), RuntimeError, r"se.expand_weight: wanted \(24, 4\)"),
        (se_with(3, torch.zeros(4)), RuntimeError, r"se.expand_bias: wanted shape \(24,\)"),
        (se_with(4, "mish"), ValueError, "se.activation: wanted one of"),
        (se_with(4, 1), TypeError, "se.activation: wanted None or a str, got int"),
        (se_with(5, "tanh"), ValueError, "se.gate: wanted one of 'sigmoid', 'hardsigmoid'"),
        (se_with(5, None), TypeError, "se.gate: wanted a str, got NoneType"),
        ({"padding": -1}, RuntimeError, "padding: wanted values >= 0"),
        ({"stride": 0}, RuntimeError, "stride: wanted values >= 1"),
        ({"activation": "mish"}, ValueError, "activation: wanted one of"),
    ),
)
def test_bad_input(change, error, words):
    with pytest.raises(error, match=rf"^effkern\.mbconv: {words}"):
        mbconv(**(problem() | change))
