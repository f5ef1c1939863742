"""Blocks in the runtimes that do not read ONNX, each as far as it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import block_cells, block_contenders, block_options, budget, ceilings, peers
from benchmarks.block_workloads import BlockLayer

pytest.importorskip("timm")
from timm.models import _efficientnet_blocks, convnext, maxxvit  # noqa: E402

CEILINGS = ceilings.Ceilings(1e11, [(1 << 20, 1e10)], {"flops": "", "copies": ""})
SE = _efficientnet_blocks.SqueezeExcite
COATNET = maxxvit.MaxxVitConvCfg(
    stride_mode="pool", pre_norm_act=True, expand_output=False, output_bias=False,
    attn_early=True, attn_act_layer="relu", act_layer="silu",
)  # fmt: skip
NAMES = ("litert", "ncnn")
# Those with a dense convolution of 3x3, which ncnn computes by Winograd's algorithm.
WINOGRAD = ("FusedMBConv", "branches")


class Branches(nn.Module):
    """A convolution that two others read, of which one is scaled: only that may be folded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.empty(1, 8, 1, 1))
        self.scaled = nn.Conv2d(8, 8, (3, 5), stride=2, padding=(1, 2))

    def forward(self, x):
        y = self.conv(x)
        return self.scaled(y * self.scale + y) * self.scale + 0.5


# As many channels as rows and columns, where a gate could be taken for a column.
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "DepthwiseSeparable": lambda: _efficientnet_blocks.DepthwiseSeparableConv(
        8, 8, act_layer=nn.SiLU, se_layer=SE
    ),
    "MBConv": lambda: _efficientnet_blocks.InvertedResidual(
        8, 8, exp_ratio=3, act_layer=nn.SiLU, se_layer=SE
    ),
    "MBConv, TensorFlow's padding": lambda: _efficientnet_blocks.InvertedResidual(
        8, 12, stride=2, pad_type="same", exp_ratio=3, act_layer=nn.Hardswish
    ),
    "FusedMBConv": lambda: _efficientnet_blocks.EdgeResidual(8, 8, exp_ratio=2, act_layer=nn.ReLU),
    "ConvNeXt": lambda: convnext.ConvNeXtBlock(8, ls_init_value=1.0),
    "CoAtNet": lambda: maxxvit.MbConvBlock(8, 8, cfg=COATNET),
    "CoAtNet, stride 2": lambda: maxxvit.MbConvBlock(8, 16, stride=2, cfg=COATNET),
    "branches": Branches,
}


def block(build):
    with torch.device("meta"):
        return BlockLayer("a block", "a kind", (8, 8, 8), build().eval())


@pytest.fixture
def options(monkeypatch):
    quick = budget.Budget(rounds=2, block=0.002, cap=1.0, total=10.0)
    monkeypatch.setattr(block_options.Options, "budget", quick)
    return block_options.Options()


@pytest.fixture(params=NAMES, scope="module")
def contender(request):
    reason = peers.absence(request.param, "cpu", cold=False)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    found = block_contenders.contenders([request.param])[-1]
    assert found.name == request.param
    yield found
    found.close()


def measured(contender, layer, options):
    (row,) = block_cells.measure(layer, 1, [contender], options, False, CEILINGS)
    return row


@pytest.mark.parametrize("name", BLOCKS)
def test_a_peer_computes_every_kind_of_block(contender, options, name):
    if contender.name in block_contenders.UNRANKED and name not in WINOGRAD:
        contender = replace(contender, tolerated=0.0)
    row = measured(contender, block(BLOCKS[name]), options)
    assert row["failure"] is None
    assert 0 < row["error_over_bound"] and 0 < row["min_us"] <= row["median_us"]


def test_a_block_that_cannot_be_translated_is_refused_with_a_reason(contender, options):
    unknown = {
        lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.Softplus()): "Softplus is not translated",
        lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.AvgPool2d(3, padding=1)): (
            r"wanted pads \(0, 0, 0, 0\), got \(1, 1, 1, 1\)"
        ),
    }
    for build, reason in unknown.items():
        row = measured(contender, block(build), options)
        with pytest.raises(RuntimeError, match=reason):
            raise RuntimeError(row["failure"])
        assert contender.name in row["failure"] and "median_us" not in row


def test_a_wrong_block_is_refused_whatever_is_tolerated(contender, options):
    def wrong(module, input):
        with torch.no_grad():
            next(module.parameters()).mul_(1.002)
        return contender.build(module, input)

    row = measured(replace(contender, build=wrong), block(BLOCKS["FusedMBConv"]), options)
    assert row["failure"].startswith("wrong: error 0.00") and "median_us" not in row


def test_the_error_that_is_tolerated_is_listed(contender, options):
    def inexact(module, input):
        with torch.no_grad():
            next(module.parameters()).mul_(1 + 2**-14)
        return contender.build(module, input)

    layer = block(BLOCKS["FusedMBConv"])
    row = measured(replace(contender, build=inexact), layer, options)
    assert row["ranked"] == (contender.name not in block_contenders.UNRANKED)
    if row["ranked"]:
        assert row["failure"].startswith("wrong: error")
    else:
        assert row["failure"] is None and row["error_over_bound"] > 1


def test_one_image_a_call_is_a_limit(options):
    chosen = block_contenders.contenders(peers.REQUIRED)
    assert block_contenders.limits(chosen, [1]) == {}
    assert block_contenders.limits(chosen, [1, 2]) == {"ncnn": ["one image a call"]}
    ncnn = [contender for contender in chosen if contender.name == "ncnn"]
    assert block_cells.measure(block(BLOCKS["MBConv"]), 2, ncnn, options, False, CEILINGS) == []
