"""The benchmark of whole blocks, on one small block."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

import effkern
from benchmarks import block_contenders, block_options, block_run, block_workloads, ceilings
from benchmarks.__main__ import parser
from benchmarks.report import document, markdown

CEILINGS = ceilings.Ceilings(1e11, [(1 << 20, 1e10)], {"flops": "", "copies": ""})


@pytest.fixture
def layer():
    blocks = pytest.importorskip("timm.models._efficientnet_blocks")
    with torch.device("meta"):
        module = blocks.InvertedResidual(
            8, 8, exp_ratio=3, act_layer=torch.nn.SiLU, se_layer=blocks.SqueezeExcite
        ).eval()
    name, kind = block_workloads._describe(module, (8, 6, 6))
    assert (name, kind) == ("8-24-8@6 3x3", "MBConv SE")
    return block_workloads.BlockLayer(name, kind, (8, 6, 6), module)


@pytest.fixture
def options(monkeypatch, layer):
    monkeypatch.setattr(block_options, "distinct", lambda models: {layer: {"a model": 2}})
    monkeypatch.setattr(ceilings, "measure", lambda device: CEILINGS)
    words = ["blocks", "--quick", "--peers", "torch", "--batch", "2"]
    return block_options.from_arguments(parser(None).parse_args(words))


def test_a_run_and_its_report(options):
    results = block_run.run(options, Console(file=io.StringIO()))
    json.dumps(results, allow_nan=False)
    assert not results["failed"] and results["layers"] == {"8-24-8@6 3x3": {"a model": 2}}
    names = ["torch", "torch_channels_last", "effkern", "effkern_channels_last"]
    assert [row["contender"] for row in results["cells"]] == names
    # Expansion and projection, depthwise taps at a padded border, squeeze-and-excitation.
    pixels = 2 * 6 * 6
    flops = 2 * (2 * pixels * 8 * 24 + pixels * 24 * 9 + 2 * 2 * 24 * 6)
    for row in results["cells"]:
        assert row["median_us"] > 0 and row["batch"] == 2 and row["flops"] == flops
        assert row["bytes"] > 4 * 2 * pixels * 8
    assert "effkern blocks" in document.build(results).title
    assert "All blocks of a model, microseconds" in markdown.render(results, [])


def test_other_runtimes_take_part_and_those_that_do_not_are_named(options):
    options.peers, options.batches = ["torch", "litert", "ncnn"], [1, 2]
    results = block_run.run(options, Console(file=io.StringIO()))
    json.dumps(results, allow_nan=False)
    rows = {(row["contender"], row["batch"]): row for row in results["cells"]}
    for name in ("litert", "ncnn"):
        if name in results["missing"]:
            assert "not installed" in results["missing"][name]
            continue
        assert rows[name, 1]["failure"] is None and rows[name, 1]["median_us"] > 0
    shown = document.build(results)
    if "ncnn" not in results["missing"]:
        assert ("ncnn", 2) not in rows and results["limits"] == {"ncnn": ["one image a call"]}
        assert any("ncnn is listed beside the others" in finding for finding in shown.findings)
    if "litert" not in results["missing"]:
        assert rows["litert", 2]["layout"] == "channels_last"
        assert any("x as fast as the best peer" in finding for finding in shown.findings)


def test_a_wrong_result_is_refused(options, layer, monkeypatch):
    class Wrong(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, input):
            return self.module(input) * 1.001

    monkeypatch.setattr(effkern, "convert", Wrong)
    chosen = block_contenders.contenders(["torch"])
    rows = block_run.measure(layer, 1, chosen, options, compiles=False, found=CEILINGS)
    failures = {row["contender"]: row["failure"] for row in rows}
    assert failures["torch"] is None
    assert failures["effkern"].startswith("wrong: error 0.001")
