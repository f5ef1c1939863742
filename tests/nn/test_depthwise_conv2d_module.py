"""effkern.DepthwiseConv2d against torch.nn.Conv2d."""

from __future__ import annotations

import copy
import pickle
import statistics
import timeit

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import effkern
from effkern import _library

GEOMETRIES = [
    {},
    {"kernel_size": (3, 5), "padding": (1, 2), "stride": 2},
    {"kernel_size": 5, "padding": "same"},
    {"kernel_size": (4, 2), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "valid", "dilation": 2, "bias": False},
    {"kernel_size": 3, "out_channels": 18, "padding": 1},
]
MODES = ["zeros", "reflect", "replicate", "circular"]


def pair(**changes):
    """The same layer as torch.nn.Conv2d and as effkern.DepthwiseConv2d, with equal weights."""
    arguments = {"in_channels": 6, "out_channels": 6, "kernel_size": 3, **changes}
    torch.manual_seed(0)
    ours = effkern.DepthwiseConv2d(**arguments)
    torch.manual_seed(0)
    theirs = nn.Conv2d(**{"groups": arguments["in_channels"], **arguments})
    return ours, theirs


def assert_same(ours, theirs, x, **tolerances):
    """Equal outputs and gradients for input and parameters."""
    results = []
    for module in (ours, theirs):
        inputs = (x.detach().clone().requires_grad_(), *module.parameters())
        y = module(inputs[0])
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_computes_what_conv2d_computes(geometry, padding_mode):
    ours, theirs = pair(padding_mode=padding_mode, dtype=torch.float64, **geometry)
    assert_same(ours, theirs, torch.randn(2, 6, 11, 12, dtype=torch.float64))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_unbatched_input(geometry):
    ours, theirs = pair(dtype=torch.float64, **geometry)
    assert_same(ours, theirs, torch.randn(6, 11, 12, dtype=torch.float64))


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_is_a_conv2d_in_every_attribute(geometry, padding_mode):
    ours, theirs = pair(padding_mode=padding_mode, **geometry)
    assert isinstance(ours, nn.Conv2d)
    assert repr(ours) == repr(theirs).replace("Conv2d", "DepthwiseConv2d", 1)
    assert ours.extra_repr() == theirs.extra_repr()
    public = [name for name in vars(theirs) if not name.startswith("_")]
    assert {name: getattr(ours, name) for name in public} == {
        name: getattr(theirs, name) for name in public
    }
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        # The same seed gives the same initial weights.
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=0)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("groups", [1, 2, 12, 0, -6, "6"])
def test_other_groups_are_refused(groups):
    with pytest.raises(ValueError, match=r"DepthwiseConv2d: groups: wanted .* \(6\), got"):
        effkern.DepthwiseConv2d(6, 6, 3, groups=groups)


@pytest.mark.parametrize(
    "bad",
    [
        {"out_channels": 7},
        {"padding": "full"},
        {"padding": "same", "stride": 2},
        {"padding_mode": "mirror"},
        {"in_channels": 0, "groups": 0},
    ],
)
def test_the_other_errors_are_those_of_conv2d(bad):
    arguments = {"in_channels": 6, "out_channels": 6, "kernel_size": 3, **bad}
    with pytest.raises(ValueError) as theirs:
        nn.Conv2d(**{"groups": arguments["in_channels"], **arguments})
    with pytest.raises(type(theirs.value)) as ours:
        effkern.DepthwiseConv2d(**arguments)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (2, 1)},
        {"padding": (3, 0)},
        {"padding": "same"},
        {"dilation": (2, 2)},
        {"padding_mode": "circular"},
        {"stride": [1, 2], "padding": [0, 1]},
    ],
)
def test_attributes_may_be_assigned_after_a_call(change):
    modules = pair(padding=1, dtype=torch.float64)
    x = torch.randn(2, 6, 9, 10, dtype=torch.float64)
    assert_same(*modules, x)
    for name, value in change.items():
        for module in modules:
            setattr(module, name, value)
    assert_same(*modules, x)


def test_a_list_attribute_may_change_in_place():
    modules = pair(padding=1)
    x = torch.randn(1, 6, 9, 10)
    for module in modules:
        module.stride = [1, 1]
        module(x)
        module.stride[0] = 3
    assert modules[0](x).shape == modules[1](x).shape == (1, 6, 3, 10)


def test_same_padding_follows_a_new_weight():
    ours, theirs = pair(padding="same", bias=False, dtype=torch.float64)
    x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    ours(x)
    theirs.weight = ours.weight = nn.Parameter(torch.randn(6, 1, 5, 7, dtype=torch.float64))
    torch.testing.assert_close(ours(x), theirs(x))


def test_works_without_parameters_of_its_own():
    # What torch.func.functional_call and hypernetworks do.
    ours, theirs = pair(dtype=torch.float64)
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    other = {name: torch.randn_like(value) for name, value in ours.state_dict().items()}
    torch.testing.assert_close(
        torch.func.functional_call(ours, other, x), torch.func.functional_call(theirs, other, x)
    )


@pytest.mark.parametrize("kind", ["deepcopy", "pickle"])
def test_copies_are_independent_and_equal(kind):
    module, _ = pair(padding=1)
    x = torch.randn(1, 6, 5, 5)
    module(x)
    clone = copy.deepcopy(module) if kind == "deepcopy" else pickle.loads(pickle.dumps(module))
    torch.testing.assert_close(clone(x), module(x), rtol=0, atol=0)
    clone.stride = (2, 2)
    assert clone(x).shape == (1, 6, 3, 3)
    assert module(x).shape == (1, 6, 5, 5)


def test_hooks_and_parametrizations_see_the_layer():
    module, plain = pair(dtype=torch.float64)
    for m in (module, plain):
        nn.utils.parametrizations.weight_norm(m)
        m.register_forward_hook(lambda m, args, out: out * 2)
    assert_same(module, plain, torch.randn(1, 6, 5, 5, dtype=torch.float64))


def test_dtype_and_device_arguments():
    module = effkern.DepthwiseConv2d(6, 6, 3, device="meta", dtype=torch.float16)
    assert module.weight.is_meta and module.weight.dtype == torch.float16
    assert module(torch.empty(2, 6, 5, 5, device="meta", dtype=torch.float16)).shape == (2, 6, 3, 3)


def test_symbolic_trace_records_one_operator():
    module, plain = pair(padding=1, dtype=torch.float64)
    traced = torch.fx.symbolic_trace(nn.Sequential(module, nn.ReLU()))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert len(targets) == 1 and targets[0].__module__.startswith("effkern")
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(traced(x), F.relu(plain(x)))


def test_from_conv_shares_everything():
    conv = nn.Conv2d(6, 12, 3, groups=6, padding=1).eval()
    conv.weight.requires_grad_(False)
    seen = []
    handle = conv.register_forward_hook(lambda m, args, out: seen.append(m))
    conv.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append("state_dict"))
    layer = effkern.DepthwiseConv2d.from_conv(conv)
    assert type(layer) is effkern.DepthwiseConv2d
    assert layer.weight is conv.weight and layer.bias is conv.bias
    assert not layer.training and not layer.weight.requires_grad
    x = torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, conv.weight, conv.bias, 1, 1, 1, 6))
    layer.state_dict()
    assert seen == [layer, "state_dict"]
    handle.remove()
    layer(x)
    assert len(seen) == 2
    # New registrations belong to one of the two.
    layer.weight = nn.Parameter(torch.zeros_like(conv.weight))
    assert conv.weight is not layer.weight
    layer.register_buffer("extra", torch.zeros(1), persistent=False)
    assert "extra" not in conv._buffers and not conv._non_persistent_buffers_set


def test_from_conv_keeps_parametrizations():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3, groups=6).double())
    layer = effkern.DepthwiseConv2d.from_conv(conv)
    assert isinstance(layer, effkern.DepthwiseConv2d)
    assert list(layer.state_dict()) == list(conv.state_dict())
    assert_same(layer, conv, torch.randn(1, 6, 5, 5, dtype=torch.float64))
    assert_same(copy.deepcopy(layer), conv, torch.randn(1, 6, 5, 5, dtype=torch.float64))
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is effkern.DepthwiseConv2d


def test_from_conv_takes_one_channel_and_its_own_kind():
    conv = nn.Conv2d(1, 4, 3)
    layer = effkern.DepthwiseConv2d.from_conv(conv)
    x = torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(layer(x), conv(x))
    again = effkern.DepthwiseConv2d.from_conv(layer)
    assert type(again) is effkern.DepthwiseConv2d and again.weight is conv.weight


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


def patched(name):
    conv = nn.Conv2d(6, 6, 3, groups=6)
    setattr(conv, name, lambda *args: torch.zeros(1))
    return conv


def compiled():
    conv = nn.Conv2d(6, 6, 3, groups=6)
    conv.compile()
    return conv


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.Conv2d(6, 6, 3), ValueError, r"groups: wanted in_channels \(6\), got 1"),
        (lambda: nn.Conv2d(6, 6, 3, groups=3), ValueError, r"groups: .* got 3"),
        (lambda: nn.Conv1d(6, 6, 3, groups=6), TypeError, "got torch.nn.Conv1d"),
        (lambda: nn.ConvTranspose2d(6, 6, 3, groups=6), TypeError, "got torch.nn.ConvTranspose2d"),
        (lambda: nn.LazyConv2d(6, 3, groups=6), TypeError, "run one batch first"),
        (lambda: Halved(6, 6, 3, groups=6), TypeError, r"got .*Halved"),
        (lambda: patched("forward"), TypeError, "forward was replaced on the instance"),
        (lambda: patched("_conv_forward"), TypeError, "_conv_forward was replaced"),
        (lambda: torch.jit.script(nn.Conv2d(6, 6, 3, groups=6)), TypeError, "ScriptModule"),
        (compiled, TypeError, "compiled"),
        (lambda: nn.Linear(3, 3), TypeError, "got torch.nn.Linear"),
        (lambda: None, TypeError, "got builtins.NoneType"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_from_conv_refuses_what_it_does_not_know(make, error, message):
    with pytest.raises(error, match=rf"effkern.DepthwiseConv2d.from_conv: conv: .*{message}"):
        effkern.DepthwiseConv2d.from_conv(make())


@pytest.mark.skipif(not _library.available(), reason="the native library is not built")
def test_a_tiny_call_costs_a_third_of_conv2d():
    ours, theirs = (m.requires_grad_(False) for m in pair(padding=1))
    x = torch.randn(1, 6, 4, 4)
    seconds = {module: [] for module in (ours, theirs)}
    for _ in range(15):
        for module in (ours, theirs):
            seconds[module].append(timeit.timeit(lambda m=module: m(x), number=100))
    best, peer = (min(seconds[module]) for module in (ours, theirs))
    assert 3 * best <= peer, (best, peer, statistics.median(seconds[ours]))
