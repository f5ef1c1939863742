"""Calls of MBConv with an image of a known size: what is looked up once, and what ends that."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import effkern
from effkern.nn import FusedMBConv, MBConv, mbconv_calls
from effkern.ops import mbconv

blocks = pytest.importorskip("timm.models._efficientnet_blocks")


def source(**arguments):
    torch.manual_seed(17)
    arguments = {"exp_ratio": 3, "se_layer": blocks.SqueezeExcite, "act_layer": nn.SiLU} | arguments
    return blocks.InvertedResidual(8, arguments.pop("out", 8), **arguments).eval()


@pytest.fixture
def known(monkeypatch):
    """A block, and how many of its calls were not known."""
    with effkern.backend("cpu"):
        block = MBConv.from_module(source())
        unknown = []
        fused = MBConv._fused
        monkeypatch.setattr(MBConv, "_fused", lambda *a: unknown.append(1) or fused(*a))
        with torch.no_grad():
            block(image())
            block(image())
            assert len(unknown) == 1
            unknown.clear()
            yield block, unknown


def image(size=9, channels=8, batch=2):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(size))


def check(block, x):
    """The result is that of the modules as they are now."""
    torch.testing.assert_close(block(x), block.reference(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("batch", (1, 5))
def test_results(known, memory_format, batch):
    block, unknown = known
    x = image(batch=batch).contiguous(memory_format=memory_format)
    before = x.clone()
    check(block, x)
    assert block(x).is_contiguous(memory_format=memory_format)
    assert not unknown and torch.equal(x, before)
    gaps = torch.randn(2, 8, 9, 18)[..., ::2]
    check(block, gaps)
    assert not unknown


@pytest.mark.parametrize(
    "arguments",
    ({"se_layer": None}, {"stride": 2, "out": 16, "pad_type": "same"}, {"act_layer": nn.ReLU6}),
    ids=str,
)
def test_other_blocks(arguments):
    block = MBConv.from_module(source(**arguments))
    with torch.no_grad(), effkern.backend("cpu"):
        for size in (9, 8, 9, 8):
            check(block, image(size))
        assert len(block._calls._kept) == 2


def change_tensor(block):
    block.se.conv_expand.bias += 1


def change_statistics(block):
    block.bn2.running_var *= 2


def replace_tensor(block):
    block.conv_pwl.weight = nn.Parameter(block.conv_pwl.weight * 2)


def replace_module(block):
    block.bn1 = copy.deepcopy(block.bn1)
    block.bn1.running_mean.add_(1)


def replace_activation(block):
    block.bn1.act = block.bn2.act = nn.ReLU()


def change_padding(block):
    block.conv_dw.padding = (0, 0)
    block.has_skip = False


@pytest.mark.parametrize(
    "change",
    (change_tensor, change_statistics, replace_tensor, replace_module, replace_activation),
)
def test_changes(known, change):
    block, unknown = known
    first = block(image())
    change(block)
    check(block, image())
    assert unknown and not torch.allclose(block(image()), first)
    unknown.clear()
    check(block, image())
    assert not unknown


def test_another_padding(known):
    block, _ = known
    change_padding(block)
    assert block(image()).shape == (2, 8, 7, 7)


def test_training_mode_and_gradients(known):
    block, unknown = known
    with torch.enable_grad():
        assert block(image()).requires_grad
    block.train()
    assert not torch.allclose(block(image()), block.eval()(image()))
    assert len(unknown) == 1


def test_other_calls_are_not_known(known):
    block, unknown = known
    with torch.autocast("cpu", torch.bfloat16):
        block(image())
    with effkern.backend("torch"):
        block(image())
    torch.func.vmap(block)(image()[None])
    assert len(unknown) == 3
    with pytest.raises(RuntimeError, match="wanted"):
        block(image(channels=7))
    with pytest.raises(RuntimeError, match="wanted"):
        block(image().double())


def test_few_sizes_are_kept(known, monkeypatch):
    block, unknown = known
    monkeypatch.setattr(mbconv_calls, "_MOST_SIZES", 2)
    for size in (4, 5, 6):
        block(image(size))
    assert len(unknown) == 3 and len(block._calls._kept) <= 2


def test_copies_and_other_dtypes_begin_anew(known):
    block, _ = known
    assert "_calls" not in vars(copy.deepcopy(block))
    wide = copy.deepcopy(block).double()
    wide(image().double())
    assert [*vars(wide)["_calls"]._kept.values()] == [None]
    check(wide, image().double())


@pytest.mark.parametrize("stride, out", ((1, 8), (2, 16)))
def test_fused_mbconv(monkeypatch, stride, out):
    torch.manual_seed(17)
    source = blocks.EdgeResidual(8, out, exp_ratio=3, stride=stride, act_layer=nn.SiLU).eval()
    block = FusedMBConv.from_module(source)
    unknown = []
    fused = FusedMBConv._fused
    monkeypatch.setattr(FusedMBConv, "_fused", lambda *a: unknown.append(1) or fused(*a))
    with torch.no_grad(), effkern.backend("cpu"):
        for batch in (2, 2, 5):
            check(block, image(size=13, batch=batch))
        assert len(unknown) == 1
        block.conv_exp.weight.mul_(2)
        check(block, image(size=13))
        check(block, image(size=13))
        assert len(unknown) == 2
        with effkern.backend("torch"):
            block(image(size=13))
        assert len(unknown) == 3


def test_operands_of_a_call_that_is_composed():
    weight, middle = torch.randn(4, 8, requires_grad=True), torch.randn(8, 1, 3, 3)
    rest = (None, None, middle, None, None, None, weight, None, 1, 1, "silu", None)
    assert mbconv.operands(image(), *rest) is None
