"""MBConv.from_module and FusedMBConv.from_module, on the blocks of timm and torchvision."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import effkern
from effkern.nn import DepthwiseConv2d, FusedMBConv, MBConv


def timm_block(name, **arguments):
    blocks = pytest.importorskip("timm.models._efficientnet_blocks")
    if arguments.pop("se", False):
        arguments["se_layer"] = blocks.SqueezeExcite
    arguments = {"act_layer": nn.SiLU, **arguments}
    return getattr(blocks, name)(8, arguments.pop("out", 8), **arguments)


def coatnet_block(stride=1, **arguments):
    maxxvit = pytest.importorskip("timm.models.maxxvit")
    configuration = maxxvit.MaxxVitConvCfg(**arguments)
    return maxxvit.MbConvBlock(8, 16 if stride == 2 else 8, stride, cfg=configuration)


def twice_gated():
    block = coatnet_block(attn_early=True)
    block.se = block.se_early
    return block


def torchvision_block(expand, stride=1, fused=False):
    efficientnet = pytest.importorskip("torchvision.models.efficientnet")
    kind = "FusedMBConv" if fused else "MBConv"
    configuration = getattr(efficientnet, f"{kind}Config")(expand, 3, stride, 8, 8, 1)
    return getattr(efficientnet, kind)(configuration, 0.5, nn.BatchNorm2d)


SOURCES = {
    "inverted": lambda: timm_block("InvertedResidual", exp_ratio=3, se=True),
    "inverted 5x5 stride 2": lambda: timm_block(
        "InvertedResidual", exp_ratio=3, se=True, dw_kernel_size=5, stride=2, out=16
    ),
    "inverted same": lambda: timm_block(
        "InvertedResidual", exp_ratio=3, stride=2, pad_type="same", drop_path_rate=0.5
    ),
    "inverted relu6": lambda: timm_block("InvertedResidual", exp_ratio=3, act_layer=nn.ReLU6),
    "separable": lambda: timm_block("DepthwiseSeparableConv", se=True),
    "edge": lambda: timm_block("EdgeResidual", exp_ratio=3, drop_path_rate=0.5),
    "edge same": lambda: timm_block("EdgeResidual", exp_ratio=3, stride=2, pad_type="same"),
    "conv": lambda: timm_block("ConvBnAct", kernel_size=3, skip=True),
    "coatnet": lambda: coatnet_block(expand_ratio=3),
    "coatnet stride 2": lambda: coatnet_block(2, stride_mode="dw", pre_norm_act=True),
    "coatnet early": lambda: coatnet_block(attn_early=True),
    "coatnet pool": lambda: coatnet_block(2, stride_mode="pool", pool_type="avg2"),
    "torchvision": lambda: torchvision_block(3),
    "torchvision separable": lambda: torchvision_block(1, stride=2),
    "torchvision fused": lambda: torchvision_block(3, fused=True),
    "torchvision fused 1": lambda: torchvision_block(1, fused=True),
}
DENSE = ("edge", "conv", "fused")


def randomized(block):
    generator = torch.Generator().manual_seed(9)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2, generator=generator)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return block.double()


def source_and_block(name):
    source = randomized(SOURCES[name]())
    cls = FusedMBConv if any(word in name for word in DENSE) else MBConv
    return source, cls.from_module(source)


def image(size=9):
    return torch.randn(3, 8, size, size, dtype=torch.float64)


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("name", SOURCES)
def test_inference(name, memory_format):
    source, block = source_and_block(name)
    source.eval(), block.eval()
    x = image(10 if "coatnet" in name else 9).contiguous(memory_format=memory_format)
    with torch.no_grad():
        wanted, before = source(x), x.clone()
        torch.testing.assert_close(block(x), wanted)
        assert "_folded" in vars(block), "the fused function was not called"
        assert torch.equal(x, before)
        torch.testing.assert_close(block.reference(x), wanted)


@pytest.mark.parametrize("training", (False, True), ids=("eval", "train"))
@pytest.mark.parametrize("name", SOURCES)
def test_same_gradients_as_the_source(name, training):
    source, _ = source_and_block(name)
    source.train(training)
    twin = copy.deepcopy(source)
    block = (FusedMBConv if any(w in name for w in DENSE) else MBConv).from_module(twin)
    assert block.training == training
    assert list(block.state_dict()) == list(source.state_dict())
    assert all(a is b for a, b in zip(block.parameters(), twin.parameters(), strict=True))
    assert [n for n, _ in block.named_modules()] == [n for n, _ in source.named_modules()]
    assert any(isinstance(m, DepthwiseConv2d) for m in block.modules()) == isinstance(block, MBConv)
    assert not any(isinstance(m, DepthwiseConv2d) for m in twin.modules())
    x, results = image(10), []
    for module in (source, block):
        torch.manual_seed(23)
        leaf = x.clone().requires_grad_()
        output = module(leaf)
        gradients = torch.autograd.grad(output.square().sum(), [leaf, *module.parameters()])
        results.append((output, *gradients, *module.buffers()))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_changed_parameters_are_folded_again():
    source, block = source_and_block("inverted")
    source.eval(), block.eval()
    x = image()
    with torch.no_grad():
        first = block(x)
        source.bn2.running_var.mul_(2)
        torch.testing.assert_close(block(x), source(x))
        assert not torch.allclose(block(x), first)
        block.conv_pwl.weight = nn.Parameter(block.conv_pwl.weight * 2)
        source.conv_pwl.weight = block.conv_pwl.weight
        torch.testing.assert_close(block(x), source(x))


def test_folded_before_copies_and_compile():
    source, _ = source_and_block("inverted")
    source.eval()
    x = image()
    with torch.no_grad():
        wanted = source(x)
        block = MBConv.from_module(effkern.fold_batch_norm(source))
        torch.testing.assert_close(block(x), wanted)
        block = MBConv.from_module(source)
        block(x)
        for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert "_folded" not in vars(other)
            torch.testing.assert_close(other(x), wanted)
        compiled = torch.compile(block, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), wanted)
        torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(block))(x), wanted)


@pytest.mark.parametrize("name", ("inverted", "edge", "torchvision", "coatnet"))
def test_convert_report_and_revert(name):
    source = nn.Sequential(randomized(SOURCES[name]())).eval()
    x = image()
    kept = effkern.convert(source, blocks=False)
    assert type(kept[0]) is type(source[0])
    converted = effkern.convert(source)
    assert isinstance(converted[0], (MBConv, FusedMBConv))
    row = next(row for row in effkern.conversion_report(converted) if row.is_block)
    assert (row.path, row.old_class, row.new_class) == ("0", type(source[0]), type(converted[0]))
    before = next(row for row in effkern.conversion_report(source) if row.is_block)
    assert before.new_class is None and "not converted yet" in before.reason
    assert "1 of 1 blocks replaced" in str(effkern.conversion_report(converted))
    with torch.no_grad():
        torch.testing.assert_close(converted(x), source(x))
    reverted = effkern.revert(converted)
    assert [type(m) for m in reverted.modules()] == [type(m) for m in source.modules()]
    with torch.no_grad():
        assert torch.equal(reverted(x), source(x))


def hooked():
    block = timm_block("InvertedResidual")
    block.bn1.register_forward_hook(lambda *_: None)
    return block


def instance_norm(channels, **_):
    return nn.InstanceNorm2d(channels)


@pytest.mark.parametrize(
    "cls, make, error, words",
    (
        (MBConv, lambda: nn.Linear(3, 3), TypeError, "wanted timm.*, got torch.nn.Linear"),
        (MBConv, SOURCES["edge"], TypeError, "wanted timm.*EdgeResidual"),
        (FusedMBConv, SOURCES["inverted"], TypeError, "wanted timm.*InvertedResidual"),
        (MBConv, hooked, TypeError, "bn1 has hooks"),
        (MBConv, lambda: timm_block("InvertedResidual", dilation=2), ValueError, "dilated"),
        (MBConv, lambda: timm_block("InvertedResidual", group_size=4), ValueError, "not depthwise"),
        (
            MBConv,
            lambda: timm_block("InvertedResidual", act_layer="mish"),
            TypeError,
            "the activation is .*Mish",
        ),
        (
            MBConv,
            lambda: timm_block("InvertedResidual", norm_layer=instance_norm),
            TypeError,
            "the norm is .*, wanted a BatchNorm2d",
        ),
        (
            MBConv,
            lambda: timm_block("DepthwiseSeparableConv", pw_act=True),
            ValueError,
            "the projection has an activation",
        ),
        (MBConv, twice_gated, ValueError, "before a norm, and that is not all"),
        (FusedMBConv, lambda: timm_block("EdgeResidual", se=True), TypeError, "squeeze-and-exc"),
        (FusedMBConv, lambda: timm_block("EdgeResidual", group_size=4), ValueError, "not dense"),
    ),
)
def test_what_it_refuses(cls, make, error, words):
    source = make()
    where = rf"^effkern\.nn\.{cls.__name__}\.from_module: module: "
    with pytest.raises(error, match=rf"(?s){where}.*{words}"):
        cls.from_module(source)
    converted = effkern.convert(nn.Sequential(source))
    assert not isinstance(converted[0], cls)


@pytest.mark.parametrize("cls", (MBConv, FusedMBConv))
def test_is_made_from_a_module_only(cls):
    with pytest.raises(TypeError, match="from_module"):
        cls()
