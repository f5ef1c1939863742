"""depthwise_conv2d and its module under everything that PyTorch does to an operator.

In float64 where the dtype does not matter, so that the default tolerances mean something.
"""

from __future__ import annotations

import copy
import os
import threading

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import effkern
from effkern import _library
from effkern.testing.tolerances import assert_within_bound

REQUIRED = os.environ.get("EFFKERN_REQUIRE_BACKENDS", "").split(",")
DEVICES = [name for name in ("cpu", "cuda") if effkern.backends()[name] is True or name in REQUIRED]
if not DEVICES:
    pytest.skip(str(_library.load_error()), allow_module_level=True)

CHANNELS = 6
LAYER = effkern.DepthwiseConv2d(CHANNELS, CHANNELS, 3, padding=1)


def functional(x, w, b):
    return effkern.functional.depthwise_conv2d(x, w, b, padding=1)


def module(x, w, b):
    return functional_call(LAYER, {"weight": w, "bias": b}, (x,))


def reference(x, w, b):
    return F.conv2d(x, w, b, padding=1, groups=CHANNELS)


@pytest.fixture(params=[functional, module], ids=["functional", "module"])
def f(request):
    return request.param


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    """The devices that are here, or have to be; cuda by name, since auto may prefer torch there."""
    state = effkern.backends()[request.param]
    if state is not True:
        pytest.fail(f"backend {request.param} is required and is not here: {state}")
    torch._dynamo.reset()
    torch.manual_seed(0)
    with effkern.backend("cuda" if request.param == "cuda" else "auto"):
        yield request.param


@pytest.fixture
def make(device):
    def make(requires_grad=False, batch=2, height=7, width=5, dtype=torch.float64):
        shapes = (batch, CHANNELS, height, width), (CHANNELS, 1, 3, 3), (CHANNELS,)
        tensors = (torch.randn(shape, dtype=dtype, device=device) for shape in shapes)
        return tuple(t.requires_grad_(requires_grad) for t in tensors)

    return make


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs)


def gradients(f, tensors):
    return torch.autograd.grad(f(*tensors).square().sum(), tensors)


def schema_arguments(make, activation):
    x, w, b = make(True, height=4, width=3)
    backend = effkern.registry.BACKENDS[effkern.registry.current()]
    geometry = (1, 1, 1, 1, 1, 1, 1, 1)
    g = torch.randn_like(x).requires_grad_()
    return {
        "depthwise_conv2d": (x, w, b, *geometry, activation, backend),
        "depthwise_conv2d_backward": (g, x, w, *geometry, True, True, True, backend),
        "depthwise_conv2d_activation_backward": (g, x, w, b, *geometry, activation, backend),
    }


OPERATORS = [
    "depthwise_conv2d",
    "depthwise_conv2d_backward",
    "depthwise_conv2d_activation_backward",
]


@pytest.mark.parametrize("activation", ["relu", "silu", None])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(make, name, activation):
    code = effkern.ops.depthwise_conv2d.ACTIVATIONS[activation]
    if name.endswith("activation_backward") and not code:
        pytest.skip("is not called without an activation")
    arguments = schema_arguments(make, code)[name]
    torch.library.opcheck(getattr(torch.ops.effkern, name).default, arguments)
    # The twins have no autograd; they promise a schema and a fake.
    twin = getattr(torch.ops.effkern, f"_{name}").default
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    torch.library.opcheck(twin, detached, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_of_other_layouts(make, name):
    arguments = list(schema_arguments(make, 1)[name])
    for memory_format in (torch.channels_last, "strided"):
        for index in range(2 if "backward" in name else 1):
            t = arguments[index].detach()
            if memory_format == "strided":
                t = torch.empty(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype)[..., ::2].copy_(t)
            else:
                t = t.contiguous(memory_format=memory_format)
            arguments[index] = t
        operator = getattr(torch.ops.effkern, name).default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_forward_and_backward(make, f):
    tensors = make(True)
    assert_close(f(*tensors), reference(*tensors))
    assert_close(gradients(f, tensors), gradients(reference, tensors))


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compile_without_gradients(make, f, compiler):
    tensors = make()
    compiled = torch.compile(lambda *t: f(*t).relu() + 1, fullgraph=True, backend=compiler)
    assert_close(compiled(*tensors), reference(*tensors).relu() + 1)


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compile_with_gradients(make, f, compiler):
    def around(f):
        return lambda x, w, b: f(x * 2, w, b).relu() + 1

    tensors = make(True)
    compiled = torch.compile(around(f), fullgraph=True, backend=compiler)
    assert_close(gradients(compiled, tensors), gradients(around(reference), tensors))


def test_compile_of_the_module_itself(make):
    x, w, b = make()
    layer = copy.deepcopy(LAYER).to(x)
    plain = lambda x: reference(x, layer.weight, layer.bias)  # noqa: E731
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for _ in range(2):
        assert_close(compiled(x), plain(x))
    # Neither an eager call in between nor training mode is a reason to compile again.
    layer(x)
    assert_close(compiled(x), plain(x))
    assert counter.frame_count == 1
    targets = [n.target for n in counter.graphs[0].graph.nodes if n.op == "call_function"]
    assert targets == [torch.ops.effkern.depthwise_conv2d.default]
    layer.stride = (2, 2)
    assert_close(compiled(x), F.conv2d(x, layer.weight, layer.bias, 2, 1, 1, CHANNELS))


@pytest.mark.parametrize("dynamic, compilations", [(True, 1), (None, 2)])
def test_no_recompilation_across_batch_and_image_sizes(make, f, dynamic, compilations):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend=counter)
    for size in (2, 3, 5, 8):
        # All different in the first call: torch takes equal sizes for one and the same.
        tensors = make(True, batch=size, height=size + 6, width=size + 7)
        assert_close(gradients(compiled, tensors), gradients(reference, tensors))
    # Without `dynamic`, torch compiles the first sizes as constants and then once for all others.
    assert counter.frame_count == compilations


def test_compile_dynamic_by_inductor(make, f):
    compiled = torch.compile(lambda *t: f(*t).relu(), fullgraph=True, dynamic=True)
    for size in (2, 3):
        tensors = make(True, batch=size, height=size + 6)
        expected = gradients(lambda *t: reference(*t).relu(), tensors)
        assert_close(gradients(compiled, tensors), expected)


def test_another_backend_compiles_again(make):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(functional, fullgraph=True, backend=counter)
    tensors = make()
    for name in ("auto", "torch", "auto", "torch"):
        with effkern.backend(name):
            assert_close(compiled(*tensors), reference(*tensors))
    assert counter.frame_count <= 2 + (effkern.registry.current() != "auto")


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(make, strict):
    x, _, _ = make()
    layer = copy.deepcopy(LAYER).to(x)
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.effkern.depthwise_conv2d.default in targets
    y, _, _ = make(batch=5)
    assert_close(program.module()(y), model(y))
    assert_close(program.run_decompositions().module()(y), model(y))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(make, f, device, dtype, compiled):
    tensors = make(True, dtype=torch.float32)
    call = torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f
    results = []
    for function in (call, reference):
        with torch.autocast(device, dtype):
            y = function(*tensors)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), tensors)))
    rounded = [t.detach().to(dtype).double().requires_grad_() for t in tensors]
    y = reference(*rounded)
    # Each call's own output, rounded to 16 bits, is the gradient that it gets.
    exact = (y, *torch.autograd.grad(y, rounded, 2 * results[0][0].double()))
    names = ("output", "grad_input", "grad_weight", "grad_bias")
    for name, ours, theirs, wanted in zip(names, *results, exact, strict=True):
        assert ours.dtype == theirs.dtype == (dtype if name == "output" else torch.float32)
        # Computed in 16 bits, and converted for the float32 parameters.
        assert_within_bound(ours.to(dtype), theirs.to(dtype), wanted.detach(), what=name)


def test_autocast_leaves_float64_alone(make, f, device):
    tensors = make()
    with torch.autocast(device, torch.bfloat16):
        assert_close(f(*tensors), reference(*tensors))


@pytest.mark.parametrize("in_dims", [(0, None, None), (1, None, None), (0, 0, 0), (None, 0, None)])
def test_vmap(make, f, in_dims):
    tensors = make()
    mapped = [
        t if dim is None else torch.randn(3, *t.shape).to(t).movedim(0, dim)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]
    assert_close(vmap(f, in_dims)(*mapped), vmap(reference, in_dims)(*mapped))


def test_func_grad_and_per_sample_gradients(make, f):
    tensors = make()

    def loss(f):
        return lambda x, w, b: f(x, w, b).square().sum()

    for argument in (0, 1, 2):
        assert_close(grad(loss(f), argument)(*tensors), grad(loss(reference), argument)(*tensors))
    per_sample = [
        vmap(grad(loss(function), (1, 2)), (0, None, None))(*tensors) for function in (f, reference)
    ]
    assert_close(*per_sample)


def test_func_jvp_vjp_and_jacobians(make, f):
    x, w, b = make(batch=1, height=4, width=3)
    tangents = tuple(torch.randn_like(t) for t in (x, w, b))
    assert_close(jvp(f, (x, w, b), tangents), jvp(reference, (x, w, b), tangents))
    ours, theirs = (vjp(function, x, w, b) for function in (f, reference))
    seed = torch.randn_like(ours[0])
    assert_close(ours[1](seed), theirs[1](seed))
    assert_close(jacrev(f, 1)(x, w, b), jacrev(reference, 1)(x, w, b))
    assert_close(torch.func.hessian(f, 1)(x, w, b), torch.func.hessian(reference, 1)(x, w, b))


def test_forward_mode_keeps_the_tangent(make, f):
    tensors = make()
    tangents = [torch.randn_like(t) for t in tensors]
    results = []
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, v) for t, v in zip(tensors, tangents, strict=True)]
        for function in (f, reference):
            results.append(forward_ad.unpack_dual(function(*duals)))
    assert results[0].tangent is not None
    assert_close(results[0].tangent, results[1].tangent)


def test_gradcheck_and_gradgradcheck(make, f):
    tensors = make(True, height=4, width=3)
    assert torch.autograd.gradcheck(f, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, tensors, fast_mode=True)


@pytest.mark.parametrize("order", [2, 3])
def test_higher_order_gradients(make, f, order):
    results = []
    for function in (f, reference):
        torch.manual_seed(1)
        tensors = make(True)
        value = function(*tensors).pow(3).sum()
        for _ in range(order):
            grads = torch.autograd.grad(value, tensors, create_graph=True)
            value = sum(g.pow(3).sum() * (i + 1) for i, g in enumerate(grads))
        results.append(grads)
    assert_close(*results)


def test_compiled_double_backward_is_an_error_not_a_wrong_number(make):
    tensors = make(True)
    compiled = torch.compile(functional, fullgraph=True, backend="aot_eager")
    (g,) = torch.autograd.grad(compiled(*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(g.square().sum(), tensors[1])


@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)])
def test_only_the_gradients_that_are_needed(make, f, needs):
    tensors = [t.requires_grad_(bool(n)) for t, n in zip(make(), needs, strict=True)]
    wanted = [t for t in tensors if t.requires_grad]
    assert_close(
        torch.autograd.grad(f(*tensors).square().sum(), wanted),
        torch.autograd.grad(reference(*tensors).square().sum(), wanted),
    )


def test_gradients_that_are_not_contiguous(make, f):
    for seed in (
        lambda y: y.sum(),
        lambda y: (y.transpose(2, 3) * torch.arange(7.0, device=y.device)).sum(),
        lambda y: y[:, ::2].square().sum() + y.mean(),
        lambda y: y.contiguous(memory_format=torch.channels_last).square().sum(),
    ):
        tensors = make(True)
        assert_close(
            torch.autograd.grad(seed(f(*tensors)), tensors),
            torch.autograd.grad(seed(reference(*tensors)), tensors),
        )


def test_changed_inputs_are_noticed(make, f):
    x, w, b = make(True)
    for changed in (x, w):
        y = f(x, w, b)
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_a_graph_runs_once_unless_it_is_retained(make, f):
    tensors = make(True)
    y = f(*tensors).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_checkpointing_and_saved_tensor_hooks(make, f):
    tensors = make(True)
    expected = gradients(reference, tensors)
    assert_close(gradients(lambda *t: checkpoint(f, *t, use_reentrant=False), tensors), expected)
    with torch.autograd.graph.save_on_cpu():
        assert_close(gradients(f, tensors), expected)


def test_inference_mode(make, f):
    tensors = make(True)
    with torch.inference_mode():
        y = f(*tensors)
    assert y.is_inference() and not y.requires_grad
    assert_close(y.clone(), reference(*tensors).detach())
    with torch.no_grad():
        assert not f(*tensors).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_trace(make):
    x, _, _ = make()
    layer = copy.deepcopy(LAYER).to(x)
    y = torch.randn(3, *x.shape[1:]).to(x)
    layer.requires_grad_(False)
    for call in (layer, lambda x: functional(x, layer.weight, layer.bias)):
        assert_close(torch.jit.trace(call, (x,))(y), layer(y))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_meta_and_fake_tensors(make, f, memory_format):
    x, w, b = make()
    x = x.contiguous(memory_format=memory_format)
    real = f(x, w, b)
    assert real.stride() == reference(x, w, b).stride()
    with FakeTensorMode() as mode:
        fake = f(*(mode.from_tensor(t) for t in (x, w, b)))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)
    assert fake.device == real.device
    meta = [t.to("meta") for t in (x, w, b)]
    # torch's convolution gives contiguous meta tensors whatever the input.
    assert f(*meta).is_meta
    assert f(*meta).shape == real.shape and f(*meta).stride() == reference(*meta).stride()


def in_threads(function, count=4):
    """Runs function(index) in threads and hands on their first exception."""
    errors: list[BaseException] = []

    def run(index):
        try:
            function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_several_threads(make, f):
    cases = [make(True, batch=2 + index) for index in range(4)]
    expected = [gradients(reference, case) for case in cases]

    def run(index):
        for _ in range(5):
            assert_close(gradients(f, cases[index]), expected[index])

    in_threads(run)


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_backward_keeps_the_backend_of_its_forward(make, monkeypatch, device, create_graph):
    from effkern.ops.depthwise_conv2d import eager

    seen = []
    run = eager.backward
    monkeypatch.setattr(eager, "backward", lambda *a: (seen.append(a[-1]), run(*a))[1])
    tensors = make(True)
    with effkern.backend(device):
        y = functional(*tensors).square().sum()

    def backward(_):
        with effkern.backend("torch"):
            grads = torch.autograd.grad(y, tensors, create_graph=create_graph)
        assert_close(grads, gradients(reference, tensors))

    in_threads(backward, count=1)
    assert seen == [effkern.registry.BACKENDS[device]]
