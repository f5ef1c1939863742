"""convert, conversion_report and revert, on single layers and on real models."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import effkern
from effkern.nn.depthwise_conv2d_same import DepthwiseConv2dSame, DepthwiseConv2dStaticSame

# name, arguments, input size, depthwise layers
TIMM_MODELS = [
    ("efficientnet_b0", {}, 48, 16),
    ("tf_efficientnetv2_s", {}, 33, 30),
    ("tf_efficientnet_b0", {}, 43, 16),
    ("convnext_tiny", {}, 64, 18),
    ("mobilenetv2_100", {}, 48, 17),
    ("coatnet_0_rw_224", {"img_size": 96}, 96, 5),
]


def depthwise(channels=6, kernel_size=3, **arguments):
    return nn.Conv2d(channels, channels, kernel_size, groups=channels, **arguments).double()


def layers(model):
    return [m for m in model.modules() if isinstance(m, effkern.DepthwiseConv2d)]


def classes(model):
    return [type(m) for m in model.modules()]


def check_round_trip(model, x, count):
    """Converts and reverts; outputs, gradients and keys must stay, and `count` layers change."""
    before = classes(model)
    converted = effkern.convert(model)
    assert classes(model) == before, "convert changed its argument"
    assert len(layers(converted)) == count
    assert list(converted.state_dict()) == list(model.state_dict())
    assert [name for name, _ in converted.named_modules()] == [n for n, _ in model.named_modules()]
    results = []
    for m in (model, converted):
        inputs = x.clone().requires_grad_()
        y = m(inputs)
        parameters = [p for p in m.parameters() if p.requires_grad]
        results.append((y, *torch.autograd.grad(y.sum(), [inputs, *parameters])))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    reverted = effkern.revert(converted)
    assert classes(reverted) == before
    assert len(layers(converted)) == count, "revert changed its argument"
    torch.testing.assert_close(reverted(x), results[0][0], rtol=0, atol=0)
    return converted


@pytest.mark.parametrize("name, arguments, size, count", TIMM_MODELS)
def test_timm_models_stay_the_same(name, arguments, size, count):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **arguments).double().eval()
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    check_round_trip(model, x, count)
    check_round_trip(model, x.contiguous(memory_format=torch.channels_last), count)


def test_torchvision_mobilenet_v2_stays_the_same():
    models = pytest.importorskip("torchvision.models")
    model = models.mobilenet_v2(num_classes=5).double().eval()
    check_round_trip(model, torch.randn(1, 3, 64, 64, dtype=torch.float64), 17)


def test_a_model_trains_like_before():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=5).double()
    converted = effkern.convert(model)
    # Large enough for the batch's statistics to be well conditioned in every layer.
    x, y = torch.randn(4, 3, 96, 96, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    losses = []
    for m in (model, converted):
        optimizer = torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9)
        losses.append([])
        for _ in range(3):
            loss = nn.functional.cross_entropy(m(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][0] != losses[0][2]


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_pytorch"])
@pytest.mark.parametrize("geometry", [(3, 2, 1), (5, 2, 1), (5, 1, 1), (4, 3, 2)])
@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_efficientnet_same_padding(package, geometry, size):
    utils = pytest.importorskip(f"{package}.utils")
    kernel_size, stride, dilation = geometry
    geometry = {"stride": stride, "dilation": dilation, "groups": 6}
    static = utils.Conv2dStaticSamePadding(6, 12, kernel_size, image_size=size, **geometry)
    dynamic = utils.Conv2dDynamicSamePadding(6, 12, kernel_size, **geometry)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    for module, replacement in (
        (static, DepthwiseConv2dStaticSame),
        (dynamic, DepthwiseConv2dSame),
    ):
        converted = check_round_trip(module.double(), x, 1)
        assert type(converted) is replacement
        # Also at a size that the static padding was not made for.
        check_round_trip(module, torch.randn(1, 6, 17, 13, dtype=torch.float64), 1)


def test_static_same_padding_adds_to_the_layers_own():
    utils = pytest.importorskip("efficientnet_lite_pytorch.utils")
    module = utils.Conv2dStaticSamePadding(
        4, 4, 3, stride=2, image_size=8, groups=4, padding=(2, 1), padding_mode="circular"
    )
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    converted = check_round_trip(module.double(), x, 1)
    for m in (module, converted):
        m.static_padding = nn.ZeroPad2d((1, 2, 3, 0))
    torch.testing.assert_close(converted(x), module(x))
    assert "ZeroPad2d" in repr(converted) and converted.padding == (2, 1)
    torch.testing.assert_close(pickle.loads(pickle.dumps(converted))(x), module(x))


@pytest.mark.parametrize("kernel_size, stride, dilation", [(3, 2, 1), ((3, 5), (2, 3), (2, 1))])
def test_timm_same_padding_follows_the_input_size(kernel_size, stride, dilation):
    timm_layers = pytest.importorskip("timm.layers")
    module = timm_layers.Conv2dSame(6, 12, kernel_size, stride, dilation=dilation, groups=6)
    module = module.double()
    converted = effkern.convert(module)
    assert type(converted) is DepthwiseConv2dSame
    for size in ((8, 8), (9, 7), (2, 13), (1, 1)):
        check_round_trip(module, torch.randn(2, 6, *size, dtype=torch.float64), 1)
        x = torch.randn(6, *size, dtype=torch.float64)
        torch.testing.assert_close(converted(x), module(x))
    x = torch.randn(2, 6, 8, 9, dtype=torch.float64)
    traced = torch.fx.symbolic_trace(nn.Sequential(converted))
    torch.testing.assert_close(traced(x), module(x))
    torch.testing.assert_close(copy.deepcopy(converted)(x), module(x))
    compiled = torch.compile(converted, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((8, 9), (11, 6)):
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), module(x))


def test_a_foreign_class_of_a_known_name_is_left_alone(monkeypatch):
    fake = types.ModuleType("efficientnet_pytorch.utils")
    source = "class Conv2dDynamicSamePadding(Conv2d):\n    def forward(self, x):\n        return x"
    exec(source, {"Conv2d": nn.Conv2d, "__name__": "efficientnet_pytorch.utils"}, fake.__dict__)
    monkeypatch.delitem(sys.modules, "efficientnet_pytorch.utils", raising=False)
    assert not layers(effkern.convert(fake.Conv2dDynamicSamePadding(4, 4, 3, groups=4)))


def test_padding_that_crops_or_has_hooks_is_left_alone():
    utils = pytest.importorskip("efficientnet_lite_pytorch.utils")
    module = utils.Conv2dStaticSamePadding(4, 4, 3, stride=2, image_size=8, groups=4)
    cropping, hooked = copy.deepcopy(module), copy.deepcopy(module)
    cropping.static_padding = nn.ZeroPad2d((-1, 0, 0, 0))
    hooked.static_padding.register_forward_hook(lambda m, args, out: out + 1)
    for m, count in ((module, 1), (cropping, 0), (hooked, 0)):
        assert len(layers(effkern.convert(m))) == count


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = depthwise(padding=1)
        self.second = self.first
        self.again = nn.ModuleList([self.first])
        self.hidden = [self.first]

    def forward(self, x):
        return self.second(self.first(x)) + self.hidden[0](x)


def test_a_shared_module_stays_shared():
    model = Shared()
    converted = check_round_trip(model, torch.randn(2, 6, 5, 5, dtype=torch.float64), 1)
    assert converted.first is converted.second is converted.again[0] is converted.hidden[0]
    rows = effkern.conversion_report(converted)
    assert [row.path for row in rows] == ["first", "second", "again.0"]
    assert {row.new_class for row in rows} == {effkern.DepthwiseConv2d}


def test_in_place_keeps_every_object():
    model = nn.Sequential(depthwise(), nn.BatchNorm2d(6).double(), depthwise(stride=2))
    before, parameters = list(model.modules()), list(model.parameters())
    calls = []
    handle = model[0].register_forward_hook(lambda m, args, out: calls.append(m))
    assert effkern.convert(model, inplace=True) is model
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    model(x)
    assert calls == [model[0]]
    handle.remove()
    assert effkern.revert(model, inplace=True) is model
    model(x)
    assert len(calls) == 1 and classes(model)[1:] == [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]
    assert not [name for name in vars(model[0]) if name in ("_converted_from", "_resolved")]


def test_the_model_may_be_the_convolution():
    conv = depthwise(padding=1)
    assert effkern.convert(conv, inplace=True) is conv
    assert type(conv) is effkern.DepthwiseConv2d
    assert "(the model)" in str(effkern.conversion_report(conv))


def test_converting_twice_is_converting_once():
    model = nn.Sequential(depthwise())
    twice = effkern.convert(effkern.convert(model))
    assert type(twice[0]) is effkern.DepthwiseConv2d
    assert type(effkern.revert(twice)[0]) is nn.Conv2d
    assert classes(effkern.convert(model, blocks=False)) == classes(twice)


def test_layers_built_as_effkerns_are_not_reverted():
    model = nn.Sequential(effkern.DepthwiseConv2d(6, 6, 3))
    assert type(effkern.revert(effkern.convert(model))[0]) is effkern.DepthwiseConv2d


@pytest.mark.parametrize("when", ["before", "after"])
def test_parametrized_layers(when):
    norm = nn.utils.parametrizations.weight_norm
    model, x = nn.Sequential(depthwise()), torch.randn(1, 6, 5, 5, dtype=torch.float64)
    if when == "before":
        norm(model[0])
    converted = effkern.convert(model)
    if when == "after":
        norm(converted[0])
    assert isinstance(converted[0], effkern.DepthwiseConv2d)
    torch.testing.assert_close(converted(x), model(x))
    converted.load_state_dict(converted.state_dict())
    reverted = effkern.revert(converted)
    assert nn.utils.parametrize.is_parametrized(reverted[0])
    assert not isinstance(reverted[0], effkern.DepthwiseConv2d)
    torch.testing.assert_close(reverted(x), model(x))
    for m in (converted, reverted):
        nn.utils.parametrize.remove_parametrizations(m[0], "weight")
    assert type(converted[0]) is effkern.DepthwiseConv2d and type(reverted[0]) is nn.Conv2d


@pytest.mark.parametrize("tool", ["prune", "weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tools_that_work_by_hooks(tool):
    # They set the weight before each call, so the module has no deep copy.
    conv = depthwise().eval()
    if tool == "prune":
        prune.l1_unstructured(conv, "weight", amount=0.5)
    else:
        getattr(nn.utils, tool)(conv)
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    wanted, keys = conv(x), list(conv.state_dict())
    effkern.convert(conv, inplace=True)
    assert type(conv) is effkern.DepthwiseConv2d and list(conv.state_dict()) == keys
    torch.testing.assert_close(conv(x), wanted)
    effkern.revert(conv, inplace=True)
    assert type(conv) is nn.Conv2d
    torch.testing.assert_close(conv(x), wanted, rtol=0, atol=0)


class Unknown(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


def quantized():
    return torch.ao.nn.quantized.Conv2d(8, 8, 3, groups=8)


def quantization_aware():
    qconfig = torch.ao.quantization.get_default_qat_qconfig()
    return torch.ao.nn.qat.Conv2d(6, 6, 3, groups=6, qconfig=qconfig)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: nn.Conv2d(6, 6, 3), "not depthwise: groups is 1, in_channels 6"),
        (lambda: nn.Conv2d(6, 6, 3, groups=2), "not depthwise: groups is 2"),
        (lambda: nn.Conv2d(1, 6, 3), "not depthwise: one input channel"),
        (lambda: Unknown(6, 6, 3, groups=6), "got .*Unknown"),
        (lambda: nn.Conv1d(6, 6, 3, groups=6), "no kernel for torch.nn.Conv1d"),
        (lambda: nn.Conv3d(6, 6, 3, groups=6), "no kernel for torch.nn.Conv3d"),
        (lambda: nn.ConvTranspose2d(6, 6, 3, groups=6), "no kernel for torch.nn.ConvTranspose2d"),
        (lambda: nn.LazyConv2d(6, 3, groups=6), "run one batch first"),
        (lambda: torch.jit.script(nn.Conv2d(6, 6, 3, groups=6)), "ScriptModule"),
        (quantized, "quantized: .*Conv2d"),
        (quantization_aware, "quantized: .*qat"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_left_alone_says_why(make, reason):
    model = nn.Sequential(make(), nn.ReLU())
    converted = effkern.convert(model, inplace=True)
    assert not layers(converted)
    (row,) = effkern.conversion_report(converted)
    assert row.path == "0" and row.new_class is None and row.old_class is type(model[0])
    assert re.search(reason, row.reason), row.reason


def test_a_lazy_layer_converts_once_it_has_seen_data():
    model = nn.Sequential(nn.LazyConv2d(6, 3, groups=6))
    model(torch.randn(1, 6, 5, 5))
    assert len(layers(effkern.convert(model))) == 1


def test_the_report_before_during_and_after():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), depthwise(), effkern.DepthwiseConv2d(6, 6, 1))
    before = effkern.conversion_report(model)
    assert [row.new_class for row in before] == [None] * 3
    assert "effkern.convert makes it DepthwiseConv2d" in before[1].reason
    after = effkern.conversion_report(effkern.convert(model))
    assert [row.new_class for row in after] == [None, effkern.DepthwiseConv2d, None]
    assert after[1].old_class is nn.Conv2d and after[1].reason == ""
    table = str(after).splitlines()
    assert len(table) == 4, "the dense convolution is only counted"
    assert table[1].split() == ["1", "torch.nn.Conv2d", "effkern.nn.DepthwiseConv2d"]
    assert table[2].startswith("2 ") and table[2].endswith("already effkern's")
    assert table[3] == "1 of 3 convolutions replaced, 1 not depthwise"
    assert [row.new_class for row in effkern.conversion_report(effkern.revert(model))] == [None] * 3


def test_compiled_models():
    torch._dynamo.reset()
    model = nn.Sequential(depthwise(padding=1), nn.ReLU())
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    # torch.compile guards on the classes of submodules and so compiles again.
    effkern.convert(compiled, inplace=True)
    assert len(layers(compiled)) == 1
    torch.testing.assert_close(compiled(x), model(x))
    assert list(compiled.state_dict()) == ["_orig_mod." + key for key in model.state_dict()]
    model[0].compile()
    assert "compiled" in effkern.conversion_report(model)[0].reason


@pytest.mark.parametrize("function", [effkern.convert, effkern.revert, effkern.conversion_report])
def test_only_modules_are_taken(function):
    with pytest.raises(TypeError, match=rf"effkern.{function.__name__}: model: wanted .* got str"):
        function("model")
