"""ConvNeXtBlock.from_module, on the blocks of timm and torchvision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from effkern.nn import ConvNeXtBlock, DepthwiseConv2d


def timm_block(**arguments):
    convnext = pytest.importorskip("timm.models.convnext")
    return convnext.ConvNeXtBlock(16, **{"ls_init_value": 0.5, **arguments})


def torchvision_block(probability=0.0):
    convnext = pytest.importorskip("torchvision.models.convnext")
    return convnext.CNBlock(16, 0.5, probability)


SOURCES = {
    "timm": timm_block,
    "timm conv_mlp": lambda: timm_block(conv_mlp=True),
    "timm v2": lambda: timm_block(use_grn=True, ls_init_value=None),
    "timm v2 conv_mlp": lambda: timm_block(use_grn=True, conv_mlp=True),
    "timm 3x3": lambda: timm_block(kernel_size=3, mlp_ratio=2, conv_bias=False),
    "timm gelu_tanh": lambda: timm_block(act_layer="gelu_tanh"),
    "timm drop_path": lambda: timm_block(drop_path=0.5),
    "torchvision": torchvision_block,
    "torchvision drop_path": lambda: torchvision_block(0.5),
}


def randomized(block):
    generator = torch.Generator().manual_seed(9)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return block.double()


def run(block, x, *, forward=None):
    torch.manual_seed(23)
    x = x.detach().clone().requires_grad_()
    output = (forward or block)(x)
    parameters = list(block.parameters())
    return output, *torch.autograd.grad(output.square().sum(), [x, *parameters])


@pytest.mark.parametrize("save", ("minimal", "all"))
@pytest.mark.parametrize("training", (False, True), ids=("eval", "train"))
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("name", SOURCES)
def test_same_results_as_the_source(name, memory_format, training, save):
    source = randomized(SOURCES[name]()).train(training)
    block = ConvNeXtBlock.from_module(source)
    block.save = save
    assert block.training == training
    assert list(block.state_dict()) == list(source.state_dict())
    assert all(a is b for a, b in zip(block.parameters(), source.parameters(), strict=True))
    assert [n for n, _ in block.named_modules()] == [n for n, _ in source.named_modules()]
    x = torch.randn(4, 16, 9, 8, dtype=torch.float64).contiguous(memory_format=memory_format)
    wanted = run(source, x)
    for results in (run(block, x), run(block, x, forward=block.reference)):
        for got, want in zip(results, wanted, strict=True):
            torch.testing.assert_close(got, want)


def test_a_whole_model():
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnext_atto", num_classes=7).eval()
    converted = copy.deepcopy(model)
    for path, module in list(converted.named_modules()):
        if type(module).__name__ == "ConvNeXtBlock":
            parent, _, name = path.rpartition(".")
            setattr(converted.get_submodule(parent), name, ConvNeXtBlock.from_module(module))
    assert sum(isinstance(m, ConvNeXtBlock) for m in converted.modules()) == 12
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)
    converted.load_state_dict(model.state_dict())


def test_effkerns_layer_inside_and_copies():
    source = timm_block()
    source.conv_dw = DepthwiseConv2d.from_conv(source.conv_dw)
    block = copy.deepcopy(ConvNeXtBlock.from_module(source))
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(block(x), source(x))


def hooked():
    block = timm_block()
    block.norm.register_forward_hook(lambda *_: None)
    return block


def dropped():
    block = timm_block()
    block.mlp.drop1.p = 0.1
    return block


def batch_normed():
    return timm_block(norm_layer=lambda channels, **_: nn.BatchNorm2d(channels), conv_mlp=True)


@pytest.mark.parametrize(
    "make, error, words",
    (
        (lambda: nn.Linear(3, 3), TypeError, "wanted timm.models.convnext.ConvNeXtBlock or"),
        (lambda: timm_block(dilation=2), ValueError, "is dilated"),
        (lambda: timm_block(stride=2), ValueError, "changes the image's size"),
        (lambda: timm_block(out_chs=32), ValueError, "not depthwise|computes more"),
        (lambda: timm_block(act_layer="mish"), TypeError, "the activation is"),
        (batch_normed, TypeError, "the norm is torch.nn.BatchNorm2d, wanted a LayerNorm"),
        (dropped, ValueError, r"computes more: Dropout\(p=0.1"),
        (hooked, TypeError, "norm has hooks"),
    ),
)
def test_what_it_refuses(make, error, words):
    source = make()
    with pytest.raises(
        error, match=rf"^effkern\.nn\.ConvNeXtBlock\.from_module: module: .*({words})"
    ):
        ConvNeXtBlock.from_module(source)


def test_is_made_from_a_module_only():
    with pytest.raises(TypeError, match="from_module"):
        ConvNeXtBlock()
