"""fold_batch_norm and folding_report, on single layers and on real models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import effkern
from effkern.nn.folded_batch_norm import FoldedBatchNorm

# package, name, arguments, input size, BatchNorms that are folded, all of them
MODELS = [
    ("timm", "efficientnet_b0", {}, 32, 49, 49),
    ("timm", "tf_efficientnetv2_s", {}, 33, 110, 110),
    ("timm", "mobilenetv2_100", {}, 32, 52, 52),
    ("timm", "coatnet_0_rw_224", {"img_size": 96}, 96, 6, 16),
    ("torchvision", "efficientnet_v2_s", {}, 32, 110, 110),
    ("torchvision", "mobilenet_v3_small", {}, 32, 34, 34),
]


def randomized(model):
    """`model` in float64 and eval mode, with statistics as training would leave them."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.double().eval()


def check(model, x, count):
    """Folds `count` BatchNorms without changing `model` or its outputs; returns the result."""
    before = copy.deepcopy(model.state_dict())
    folded = effkern.fold_batch_norm(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), "fold_batch_norm changed its argument"
    assert sum(isinstance(m, FoldedBatchNorm) for m in folded.modules()) == count
    assert sum(row.folded for row in effkern.folding_report(folded)) == count
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-9, atol=1e-9)
    assert not folded.training
    return folded


def reason(model):
    """Why the only BatchNorm of `model` stays; checks that it does."""
    folded = effkern.fold_batch_norm(model)
    assert [type(m) for m in folded.modules()] == [type(m) for m in model.modules()]
    (row,) = effkern.folding_report(folded)
    assert not row.folded and row.reason
    return row.reason


@pytest.mark.parametrize("package, name, arguments, size, folded, total", MODELS)
def test_models(package, name, arguments, size, folded, total):
    if package == "timm":
        model = pytest.importorskip("timm").create_model(name, **arguments)
    else:
        model = pytest.importorskip("torchvision").models.get_model(name, **arguments)
    model = randomized(model)
    assert len(effkern.folding_report(model)) == total
    result = check(model, torch.randn(2, 3, size, size, dtype=torch.float64), folded)
    # Both orders give the same model.
    converted = effkern.fold_batch_norm(effkern.convert(model))
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), effkern.convert(result)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("affine", (True, False))
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("dimensions", (1, 2, 3))
def test_layers(dimensions, bias, affine):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    for groups in (1, 2, 6):
        layers = conv(6, 12, 3, padding=1, groups=groups, bias=bias), norm(12, affine=affine)
        model = randomized(nn.Sequential(*layers, nn.ReLU()))
        check(model, torch.randn(2, 6, *(5,) * dimensions, dtype=torch.float64), 1)


def test_in_place_keeps_the_modules_and_their_memory_format():
    model = randomized(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)))
    model.to(memory_format=torch.channels_last)
    conv = model[0]
    assert effkern.fold_batch_norm(model, inplace=True) is model and model[0] is conv
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert repr(model[1]) == "FoldedBatchNorm(folded into 0)"


def test_half_precision_is_rounded_once():
    model = randomized(nn.Sequential(nn.Conv2d(4, 8, 3, dtype=torch.bfloat16), nn.BatchNorm2d(8)))
    model[0].bfloat16(), model[1].float()
    exact = effkern.fold_batch_norm(copy.deepcopy(model).double())[0]
    folded = effkern.fold_batch_norm(model)[0]
    assert torch.equal(folded.weight, exact.weight.bfloat16())
    assert torch.equal(folded.bias, exact.bias.bfloat16())


def test_timms_activation_stays():
    layers = pytest.importorskip("timm.layers")
    norm = layers.BatchNormAct2d(8, act_layer=nn.SiLU)
    model = randomized(nn.Sequential(nn.Conv2d(4, 8, 3), norm))
    folded = check(model, torch.randn(2, 4, 7, 7, dtype=torch.float64), 1)
    assert type(folded[1].act) is nn.SiLU and folded[1].folded_class is layers.BatchNormAct2d


def test_frozen_batch_norm_of_torchvision():
    misc = pytest.importorskip("torchvision.ops.misc")
    norm = misc.FrozenBatchNorm2d(8)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.normal_()
    model = nn.Sequential(nn.Conv2d(4, 8, 3), norm).double()
    model.eval()
    check(model, torch.randn(2, 4, 7, 7, dtype=torch.float64), 1)


class Net(nn.Module):
    """A convolution and a BatchNorm, used as `forward` says."""

    def __init__(self, forward, conv=None, norm=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self._forward = forward
        randomized(self)

    def forward(self, x):
        return self._forward(self, x)


def plain(net, x):
    return net.norm(net.conv(x))


def twice(net, x):
    return net.norm(net.conv(net.norm(net.conv(x))))


def branches(net, x):
    y = net.conv(x)
    return y + net.norm(y)


def before(net, x):
    return net.conv(net.norm(x))


def between(net, x):
    return net.norm(torch.relu(net.conv(x)))


def by_weight(net, x):
    return net.norm(net.conv(x)) * net.conv.weight.sum()


def by_shape(net, x):
    return net.norm(net.conv(x)) if x.sum() > 0 else net.conv(x)


def unused(net, x):
    return net.conv(x)


@pytest.mark.parametrize(
    "forward, words",
    (
        (twice, "called more than once"),
        (branches, "used elsewhere"),
        (before, "not the output of a convolution"),
        (between, "not the output of a convolution"),
        (by_weight, "by themselves"),
        (by_shape, "cannot trace"),
        (unused, "does not call it"),
    ),
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_data_flow_that_forbids_it(forward, words):
    assert words in reason(Net(forward))


def test_modules_that_forbid_it():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight / self.weight.std(), self.bias)

    class Scaled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    assert "does not know the forward" in reason(Net(plain, conv=Standardized(4, 4, 3)))
    assert "does not know the forward" in reason(Net(plain, norm=Scaled(4)))
    assert "no running statistics" in reason(
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    )
    assert "does not know the forward" in reason(Net(plain, conv=nn.ConvTranspose2d(4, 4, 3)))
    assert "training mode" in reason(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    assert "a torch.nn.Linear" in reason(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval())
    hooked = Net(plain)
    hooked.conv.register_forward_hook(lambda *_: None)
    assert "has hooks" in reason(hooked)
    normed = Net(plain)
    parametrizations.weight_norm(normed.conv)
    assert "is parametrized" in reason(normed)
    replaced = Net(plain)
    replaced.norm.forward = lambda x: x
    assert "was replaced" in reason(replaced)
    shared = Net(plain)
    shared.again = shared.conv
    assert "several places" in reason(shared)
    assert "nothing comes before" in reason(nn.BatchNorm2d(4).eval())


def test_what_can_be_traced_of_a_model_that_cannot():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(x) if x.sum() > 1e9 else self.inner(x)

    model = randomized(Outer())
    folded = check(model, torch.randn(1, 4, 9, 9, dtype=torch.float64), 1)
    text = str(effkern.folding_report(folded))
    assert "inner.1     inner.0" in text and "cannot trace the model" in text
    assert text.endswith("1 of 2 folded")
    before = {row.path: row.reason for row in effkern.folding_report(model)}
    assert "not folded yet" in before["inner.1"]


def test_optional_arguments_keep_their_defaults():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x, skip=None):
            return self.conv(x) if skip is not None else self.norm(self.conv(x))

    check(randomized(Optional()), torch.randn(1, 4, 9, 9, dtype=torch.float64), 1)
    # As part of a model that cannot be traced it may be called in either way.
    outer = Net(by_shape, conv=Optional(), norm=nn.Identity())
    assert "cannot trace" in reason(outer)


@pytest.mark.parametrize("function", (effkern.fold_batch_norm, effkern.folding_report))
def test_no_module(function):
    with pytest.raises(TypeError, match=f"{function.__name__}: model: wanted a torch.nn.Module"):
        function("model")
