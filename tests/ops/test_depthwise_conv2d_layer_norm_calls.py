"""depthwise_conv2d_layer_norm under torch's machinery, and with arguments that are wrong."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint

import effkern
from effkern import _library
from effkern.functional import depthwise_conv2d_layer_norm
from effkern.reference.depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm as reference
from effkern.testing.problems import with_layout

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))


def arguments(dtype=torch.float32, layout="channels_last", batch=2, requires_grad=False):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_(requires_grad)

    input = with_layout(draw(batch, 16, 8, 9).detach(), layout).requires_grad_(requires_grad)
    return [input, draw(16, 1, 7, 7), draw(16), draw(16), draw(16)]


def call(tensors, **keywords):
    return depthwise_conv2d_layer_norm(*tensors, **{"padding": 3, **keywords})


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_opcheck(dtype, layout):
    for given in (True, False):
        tensors = arguments(dtype, layout, requires_grad=dtype == torch.float32)
        norm = [t.detach().float().requires_grad_(t.requires_grad) for t in tensors[3:]]
        rest = (tensors[2], *norm) if given else (None, None, None)
        operands = (*tensors[:2], *rest, 1e-6, 3, 2, 1, 3)
        torch.library.opcheck(torch.ops.effkern.depthwise_conv2d_layer_norm.default, operands)
        detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in operands]
        without_autograd = ("test_schema", "test_faketensor")
        torch.library.opcheck(
            torch.ops.effkern._depthwise_conv2d_layer_norm.default,
            detached,
            test_utils=without_autograd,
        )
        output, mean, rstd = torch.ops.effkern.depthwise_conv2d_layer_norm(*detached)
        backward = (torch.randn_like(output), *detached[:4], mean, rstd, *detached[6:])
        for name in ("", "_"):
            operator = getattr(torch.ops.effkern, f"{name}depthwise_conv2d_layer_norm_backward")
            torch.library.opcheck(operator.default, backward, test_utils=without_autograd)


# The stable ABI never compares a kernel's parameters with its schema.
@pytest.mark.parametrize("name", ("depthwise_conv2d_layer_norm", "_depthwise_conv2d_layer_norm"))
def test_every_argument_of_the_operator_arrives(name):
    tensors = arguments()
    operator = getattr(torch.ops.effkern, name)
    for pads in ((3, 2, 1, 0), (0, 1, 2, 3)):
        actual, mean, rstd = operator(*tensors, 0.25, *pads)
        padding = (pads[:2], pads[2:])
        torch.testing.assert_close(actual, reference(*tensors, 0.25, padding=padding))
        z = reference(*tensors[:3], None, None, 0.25, padding=padding)
        plain = operator(*tensors[:3], None, None, 0.25, *pads)[0]
        torch.testing.assert_close(plain, z)
        assert mean.shape == rstd.shape == (2, *actual.shape[2:])


@pytest.mark.parametrize("dynamic", (False, True))
def test_compile(dynamic):
    compiled = torch.compile(lambda *t: torch.relu(call(t)), fullgraph=True, dynamic=dynamic)
    for batch in (2, 3):
        tensors = arguments(batch=batch, requires_grad=True)
        results = []
        for function in (compiled, lambda *t: torch.relu(call(t))):
            output = function(*tensors)
            results.append((output, *torch.autograd.grad(output.square().sum(), tensors)))
        for actual, wanted in zip(*results, strict=True):
            torch.testing.assert_close(actual, wanted)
            assert actual.stride() == wanted.stride()


def test_compiled_once_for_all_sizes():
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: call(t), backend=counter, fullgraph=True, dynamic=True)
    for batch in (2, 3, 5):
        tensors = arguments(batch=batch)
        assert torch.equal(compiled(*tensors), call(tensors))
    assert counter.frame_count == 1


def test_export():
    class Head(torch.nn.Module):
        def forward(self, *tensors):
            return call(tensors)

    tensors = tuple(arguments())
    program = torch.export.export(Head(), tensors)
    assert "effkern.depthwise_conv2d_layer_norm" in str(program.graph)
    assert torch.equal(program.module()(*tensors), call(tensors))


def test_checkpoint():
    tensors = arguments(requires_grad=True)
    results = []
    for function in (
        call,
        lambda t: torch.utils.checkpoint.checkpoint(call, t, use_reentrant=False),
    ):
        results.append(torch.autograd.grad(function(tensors).square().sum(), tensors))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_autocast():
    tensors = arguments(requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = call(tensors)
        public = torch.ops.effkern.depthwise_conv2d_layer_norm(*tensors, 1e-6, 3, 3, 3, 3)[0]
    assert output.dtype == torch.bfloat16 and torch.equal(output, public)
    cast = [t.detach().bfloat16() for t in tensors[:3]]
    assert torch.equal(output, call([*cast, *(t.detach() for t in tensors[3:])]))
    gradients = torch.autograd.grad(output.float().square().sum(), tensors)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_functional_transforms_and_forward_mode():
    tensors = arguments()

    def function(input):
        return call([input, *tensors[1:]]).square().sum()

    wanted = torch.autograd.functional.jacobian(function, tensors[0])
    torch.testing.assert_close(torch.func.grad(function)(tensors[0]), wanted)
    tangent = torch.randn_like(tensors[0])
    _, along = torch.func.jvp(function, (tensors[0],), (tangent,))
    torch.testing.assert_close(along, (wanted * tangent).sum())
    batched = torch.vmap(lambda x: call([x, *tensors[1:]]))(tensors[0][:, None])
    torch.testing.assert_close(batched[:, 0], call(tensors))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_backend_torch_and_other_dtypes(layout):
    tensors = arguments(torch.float64, layout)
    with effkern.backend("torch"):
        composed = call(tensors)
    torch.testing.assert_close(composed, call(tensors))
    assert composed.stride() == call(tensors).stride()


def test_explain():
    last, first = arguments(), arguments(layout="contiguous")
    plans = effkern.explain(depthwise_conv2d_layer_norm, *last, padding=3).plans
    assert list(plans) == ["forward", "norm_backward", "grad_input", "grad_weight"]
    assert plans["forward"].backend == "cpu"
    if effkern._C.cpu_isa() != "baseline":
        assert "one pass" in plans["forward"].reason
    plans = effkern.explain(depthwise_conv2d_layer_norm, *first, padding=3).plans
    assert "two passes" in plans["forward"].reason and plans["forward"].bytes > 0
    with effkern.backend("torch"):
        plan = effkern.explain(depthwise_conv2d_layer_norm, *last, padding=3).plans["forward"]
    assert "aten::native_layer_norm" in plan.kernel and "composed" in plan.reason


@pytest.mark.parametrize(
    "change, error, words",
    (
        ({0: "x"}, TypeError, "input: wanted a Tensor, got str"),
        ({1: None}, TypeError, "weight: wanted a Tensor, got NoneType"),
        ({3: 1.0}, TypeError, "norm_weight: wanted a Tensor or None, got float"),
        ({0: torch.zeros(8, 9)}, RuntimeError, r"input: wanted \(C, H, W\)"),
        ({0: torch.zeros(2, 5, 8, 9)}, RuntimeError, "weight: wanted"),
        ({1: torch.zeros(16, 7)}, RuntimeError, r"weight: wanted \(C \* M, 1, kH, kW\)"),
        ({1: torch.zeros(16, 2, 7, 7)}, RuntimeError, "weight: wanted"),
        ({1: torch.zeros(16, 1, 7, 7).double()}, RuntimeError, "weight: wanted float32"),
        ({2: torch.zeros(15)}, RuntimeError, r"bias: wanted shape \(16,\), got \(15,\)"),
        ({3: torch.zeros(16, 1)}, RuntimeError, r"norm_weight: wanted shape \(16,\)"),
        ({4: torch.zeros(8)}, RuntimeError, r"norm_bias: wanted shape \(16,\), got \(8,\)"),
        ({4: torch.zeros(16, dtype=torch.int64)}, RuntimeError, "norm_bias: wanted a floating"),
        ({4: torch.zeros(16, device="meta")}, RuntimeError, "norm_bias: wanted device cpu"),
        ({"eps": "small"}, TypeError, "eps: wanted a float, got str"),
        ({"padding": -1}, RuntimeError, "padding: wanted values >= 0"),
        ({"padding": "full"}, RuntimeError, "padding: wanted 'same' or 'valid', got 'full'"),
        ({"padding": 1.5}, TypeError, "padding: wanted an int or a pair"),
        (
            {"padding": 0, 0: torch.zeros(1, 16, 3, 3)},
            RuntimeError,
            "weight: wanted a kernel that fits",
        ),
    ),
)
def test_bad_input(change, error, words):
    tensors = arguments()
    for position, value in change.items():
        if isinstance(position, int):
            tensors[position] = value
    keywords = {name: value for name, value in change.items() if isinstance(name, str)}
    with pytest.raises(error, match=rf"^effkern\.depthwise_conv2d_layer_norm: {words}"):
        call(tensors, **keywords)


def test_bad_arguments_of_the_operators():
    forward = torch.ops.effkern._depthwise_conv2d_layer_norm
    backward = torch.ops.effkern._depthwise_conv2d_layer_norm_backward
    tensors = arguments()
    pads = (3, 3, 3, 3)
    with pytest.raises(RuntimeError, match="norm_weight: wanted float32, got float64"):
        forward(*tensors[:3], tensors[3].double(), None, 1e-6, *pads)
    output, mean, rstd = forward(*tensors, 1e-6, *pads)
    with pytest.raises(RuntimeError, match="mean: wanted"):
        backward(output, *tensors[:4], mean[:1], rstd, *pads)
    with pytest.raises(RuntimeError, match="rstd: wanted"):
        backward(output, *tensors[:4], mean, rstd.double(), *pads)
    with pytest.raises(RuntimeError, match="grad_output: wanted the output's shape"):
        backward(output[:1], *tensors[:4], mean, rstd, *pads)
