"""depthwise_conv2d_fused as it is called: under torch's transforms, without kernels, by mistake."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

import effkern
from effkern import _library
from effkern.functional import depthwise_conv2d_fused
from effkern.reference.depthwise_conv2d import depthwise_conv2d_fused as reference
from effkern.testing.problems import DepthwiseConv2dCase as Case

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

CASE = Case(channels=6, height=8, width=9)
HOOKS = {"activation": "silu", "input_activation": "relu"}
ALL_SUMS = (None, "channel", "spatial")
sums_of_each_kind = pytest.mark.parametrize("sums", ALL_SUMS, ids=str)


def arguments(dtype=torch.float32, requires_grad=False):
    input, weight, bias, _ = CASE.tensors(dtype)
    generator = torch.Generator().manual_seed(11)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, shift = torch.randn(2, CASE.channels, generator=generator, dtype=wide).unbind()
    tensors = (input, weight, bias, scale.clone(), shift.clone())
    return [t.requires_grad_(requires_grad) for t in tensors]


def fused(input, weight, bias, scale, shift, function=depthwise_conv2d_fused, **changes):
    call = {"padding": 1, "input_scale": scale, "input_shift": shift, **HOOKS, **changes}
    return function(input, weight, bias, **call)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def assert_close(actual, wanted, **tolerance):
    for got, exact in zip(as_tuple(actual), as_tuple(wanted), strict=True):
        torch.testing.assert_close(got, exact, **tolerance)


@pytest.fixture
def operator_is_called(monkeypatch):
    """Counts the calls of the operators."""
    from effkern.ops.depthwise_conv2d import fused_autograd

    calls = []
    for name in ("PUBLIC", "LEAN"):
        operator = getattr(fused_autograd, name)

        def counted(*args, operator=operator):
            calls.append(operator)
            return operator(*args)

        monkeypatch.setattr(fused_autograd, name, counted)
    return calls


@sums_of_each_kind
@pytest.mark.parametrize("name", ("auto", "cpu", "torch"))
def test_backends(name, sums, operator_is_called):
    tensors = arguments()
    with effkern.backend(name):
        actual = fused(*tensors, sums=sums)
    assert len(operator_is_called) == (name != "torch")
    assert_close(actual, fused(*tensors, reference, sums=sums))


@sums_of_each_kind
def test_another_backend_composes(sums):
    name = "cuda_emulated"
    if effkern.backends()[name] is not True:
        pytest.skip(effkern.backends()[name])
    tensors = arguments(requires_grad=True)
    with effkern.backend(name):
        actual = fused(*tensors, sums=sums)
        grads = torch.autograd.grad(actual[0].sum(), tensors)
    wanted = fused(*tensors, reference, sums=sums)
    assert_close(actual, wanted)
    assert_close(grads, torch.autograd.grad(wanted[0].sum(), tensors))


@sums_of_each_kind
def test_without_the_library(sums, monkeypatch, operator_is_called):
    monkeypatch.setattr(_library, "available", lambda: False)
    tensors = arguments()
    # Whether this is the first call that warns depends on other tests.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        actual = fused(*tensors, sums=sums)
    assert not operator_is_called
    assert_close(actual, fused(*tensors, reference, sums=sums))


@sums_of_each_kind
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
def test_unbatched(dtype, sums):
    input, *rest = arguments(dtype)
    batched = as_tuple(fused(input[:1], *rest, sums=sums))
    actual = as_tuple(fused(input[0], *rest, sums=sums))
    for got, wanted in zip(actual, batched, strict=True):
        same = wanted if sums == "channel" and got is not actual[0] else wanted[0]
        assert torch.equal(got, same)


@sums_of_each_kind
def test_compiled(sums, operator_is_called):
    torch._dynamo.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (1, 2):
        tensors = arguments(requires_grad=True)
        tensors[0] = tensors[0].detach()[:batch].requires_grad_()
        actual, wanted = compiled(*tensors, sums=sums), fused(*tensors, sums=sums)
        assert_close(actual, wanted)
        grads, eager = (
            torch.autograd.grad(sum(r.sum() for r in as_tuple(results)), tensors)
            for results in (actual, wanted)
        )
        assert_close(grads, eager)


def test_compiled_is_one_node():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    torch.compile(fused, fullgraph=True, backend=backend)(*arguments(), sums="channel")
    targets = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert torch.ops.effkern.depthwise_conv2d_fused.default in targets


@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
def test_autocast(compiled):
    tensors = arguments(requires_grad=True)
    function = fused
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(fused, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        output, sum, squares = function(*tensors, sums="channel")
    assert output.dtype == torch.bfloat16 and sum.dtype == squares.dtype == torch.float32
    cast = [t.detach().bfloat16() for t in tensors[:3]] + [t.detach() for t in tensors[3:]]
    assert_close((output, sum, squares), fused(*cast, sums="channel"))
    grads = torch.autograd.grad(output.float().sum() + sum.sum(), tensors)
    assert all(g.dtype == torch.float32 for g in grads)


@sums_of_each_kind
def test_fake_tensors(sums):
    from torch._subclasses import FakeTensorMode

    tensors = arguments()
    wanted = as_tuple(fused(*tensors, sums=sums))
    with FakeTensorMode() as mode:
        actual = as_tuple(fused(*(mode.from_tensor(t) for t in tensors), sums=sums))
    for fake, real in zip(actual, wanted, strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_functorch(operator_is_called):
    input, *rest = arguments(torch.float64)

    def total(scale):
        output, sum, squares = fused(input, *rest[:2], scale, rest[3], sums="channel")
        return output.sum() + (sum * squares).sum()

    scale = rest[2]
    actual = torch.func.grad(total)(scale)
    assert not operator_is_called
    leaf = scale.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(leaf), leaf)
    assert operator_is_called
    assert_close(actual, wanted)
    mapped = torch.func.vmap(lambda x: fused(x, *rest, sums="spatial"))(input)
    assert_close(mapped, fused(input, *rest, sums="spatial"))


def test_forward_mode():
    input, *rest = arguments(torch.float64)
    _, tangent = torch.func.jvp(lambda x: fused(x, *rest, sums="spatial")[1], (input,), (input,))
    _, wanted = torch.func.jvp(
        lambda x: fused(x, *rest, reference, sums="spatial")[1], (input,), (input,)
    )
    assert_close(tangent, wanted)


def test_other_dtype_on_auto():
    tensors = [t.to(torch.complex64) for t in arguments()]
    input, weight = tensors[:2]
    actual = depthwise_conv2d_fused(input, weight, padding=1, sums="channel")
    assert_close(actual, reference(input, weight, padding=1, sums="channel"))


def test_scale_and_shift_in_another_floating_dtype():
    input, weight, bias, scale, shift = arguments(torch.bfloat16, requires_grad=True)
    narrow = [t.detach().bfloat16().requires_grad_() for t in (scale, shift)]
    output = fused(input, weight, bias, *narrow)
    widened = [t.detach().float() for t in narrow]
    assert torch.equal(output, fused(input, weight, bias, *widened))
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(output.sum(), narrow))


MISTAKES = {
    "scale_length": ({"scale": torch.ones(5)}, RuntimeError, r"input_scale: .*\(6,\).*\(5,\)"),
    "scale_2d": ({"scale": torch.ones(6, 1)}, RuntimeError, r"input_scale: .*\(6,\).*\(6, 1\)"),
    "shift_length": ({"shift": torch.ones(1)}, RuntimeError, r"input_shift: .*\(6,\).*\(1,\)"),
    "shift_alone": ({"scale": None}, RuntimeError, "input_shift: .*input_scale.*alone"),
    "scale_list": ({"scale": [1.0] * 6}, TypeError, "input_scale: .*Tensor.*list"),
    "scale_int": ({"scale": torch.ones(6).int()}, RuntimeError, "input_scale: .*floating.*int32"),
    "scale_meta": (
        {"scale": torch.ones(6, device="meta")},
        RuntimeError,
        "input_scale: .*cpu.*meta",
    ),
    "input_list": ({"input": [1.0]}, TypeError, "input: .*Tensor.*list"),
    "input_2d": ({"input": torch.ones(6, 8)}, RuntimeError, r"input: .*\(6, 8\)"),
    "weight_None": ({"weight": None}, TypeError, "weight: .*Tensor.*NoneType"),
    "weight_1d": ({"weight": torch.ones(6)}, RuntimeError, r"weight: .*\(6,\)"),
    "weight_groups": (
        {"weight": torch.ones(7, 1, 3, 3)},
        RuntimeError,
        r"weight: .*\(7, 1, 3, 3\)",
    ),
    "sums": ({"sums": "pixel"}, ValueError, "sums: .*'channel', 'spatial'.*'pixel'"),
    "sums_int": ({"sums": 1}, TypeError, "sums: .*str.*int"),
    "input_activation": (
        {"input_activation": "tanh"},
        ValueError,
        "input_activation: .*'silu'.*'tanh'",
    ),
    "activation": ({"activation": "tanh"}, ValueError, "activation: .*'silu'.*'tanh'"),
    "stride": ({"stride": 0}, RuntimeError, "stride: .*0"),
}


@pytest.mark.parametrize("name", ("auto", "torch"))
@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes(mistake, name):
    change, error, message = MISTAKES[mistake]
    names = ("input", "weight", "bias", "scale", "shift")
    call = dict(zip(names, arguments(), strict=True)) | change
    with effkern.backend(name), pytest.raises(error) as raised:
        fused(**call)
    pattern = rf"effkern\.depthwise_conv2d(_fused)?: {message}"
    assert re.search(pattern, str(raised.value)), raised.value
    assert "wanted" in str(raised.value)


OPERATOR_MISTAKES = {
    "activation": (13, 7, "activation: .*0 to 6.*7"),
    "input_activation": (14, -1, "input_activation: .*0 to 6.*-1"),
    "sums": (15, 3, "sums: .*0 to 2.*3"),
    "torch": (16, 4, "backend: .*auto or cpu.*torch"),
    "cuda": (16, 2, "backend: .*cpu.*cuda"),
    "scale": (3, torch.ones(7), r"input_scale: .*\(6,\).*\(7,\)"),
    "scale_dtype": (3, torch.ones(6).half(), "input_scale: .*float32.*float16"),
    "shift_dtype": (4, torch.ones(6).double(), "input_shift: .*float32.*float64"),
    "shift_alone": (3, None, "input_shift: .*input_scale"),
}


@pytest.mark.parametrize("mistake", list(OPERATOR_MISTAKES))
def test_mistakes_at_the_operator(mistake):
    position, value, message = OPERATOR_MISTAKES[mistake]
    call = [*arguments(), *CASE.geometry, 0, 0, 0, 1]
    call[position] = value
    with pytest.raises(RuntimeError, match=rf"effkern\.depthwise_conv2d_fused: {message}"):
        torch.ops.effkern.depthwise_conv2d_fused(*call)
