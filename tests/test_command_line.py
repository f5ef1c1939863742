"""python -m effkern doctor | explain, and effkern.explain and build_info behind them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import effkern
from effkern import _library, _triton, info
from effkern.__main__ import main
from effkern.explanation import PASSES, Plan

LAYER = ["explain", "--input", "2,8,14,14", "--kernel", "3"]
built = pytest.mark.skipif(not _library.available(), reason="the native library is not built")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("EFFKERN_"):
            monkeypatch.delenv(name)


def run(capsys, *arguments):
    """The exit status and what was printed on standard output and standard error."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "effkern", "doctor", "--json"], capture_output=True, text=True
    )
    report = json.loads(done.stdout)
    assert done.returncode == (1 if report["problems"] else 0)
    assert report["versions"]["torch"] == torch.__version__


def test_a_bad_default_backend_is_an_error_that_lists_the_known():
    done = subprocess.run(
        [sys.executable, "-m", "effkern", "doctor"],
        env={**os.environ, "EFFKERN_BACKEND": "cdua"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "EFFKERN_BACKEND: wanted one of auto, cpu, cuda" in done.stderr
    assert "got 'cdua'" in done.stderr


def test_doctor_tells_everything(capsys):
    status, text, _ = run(capsys, "doctor")
    for word in ("versions", "build", "cpu", "backends", "environment variables"):
        assert word in text.splitlines()
    for name in (*info.VARIABLES, *effkern.backends(), torch.__version__):
        assert name in text
    assert (status == 0) == ("no problems found" in text)


@built
def test_doctor_knows_the_build(capsys):
    _, text, _ = run(capsys, "doctor", "--json")
    report = json.loads(text)
    assert report["build"]["load_error"] is None
    assert report["build"] == json.loads(json.dumps(effkern.build_info()))
    assert report["cpu"]["instruction set"] in ("baseline", "avx2", "avx512", "avx512_bf16")
    assert report["backends"]["cpu"] is True


def test_doctor_explains_a_library_that_does_not_load(capsys, monkeypatch):
    monkeypatch.setattr(_library, "_error", ImportError("undefined symbol: foo"))
    status, text, _ = run(capsys, "doctor")
    assert status == 1
    assert "every call takes torch: undefined symbol: foo" in text
    assert effkern.build_info()["load_error"] == "undefined symbol: foo"


@pytest.mark.parametrize(
    "name, value, known",
    [
        ("EFFKERN_CPU", "avx3", "baseline, avx2, avx512, avx512_bf16"),
        ("EFFKERN_BACKEND", "gpu", "auto, cpu, cuda"),
        ("EFFKERN_BUILD_CUDA", "yes", "auto, 1, 0"),
        ("EFFKERN_REQUIRE_BACKENDS", "cpu,gpu", "auto, cpu, cuda"),
    ],
)
def test_doctor_finds_unknown_values(capsys, monkeypatch, name, value, known):
    monkeypatch.setenv(name, value)
    status, text, _ = run(capsys, "doctor", "--json")
    (problem,) = [p for p in json.loads(text)["problems"] if p.startswith(name)]
    assert status == 1 and known in problem and repr(value.split(",")[-1]) in problem


def test_doctor_finds_misspelt_variables(capsys, monkeypatch):
    monkeypatch.setenv("EFFKERN_BAKCEND", "cpu")
    status, text, _ = run(capsys, "doctor")
    assert status == 1 and "EFFKERN_BAKCEND has no effect" in text


@pytest.mark.parametrize("name", info.VARIABLES)
def test_doctor_accepts_the_values_it_lists(capsys, monkeypatch, name):
    variable = info.VARIABLES[name]
    if variable.values.startswith(("a ", "the ")):
        pytest.skip("free text")
    for value in variable.values.split(", "):
        if name == "EFFKERN_CPU" and value != "baseline":
            # The others depend on the processor.
            continue
        monkeypatch.setenv(name, value)
        _, text, _ = run(capsys, "doctor", "--json")
        assert not [p for p in json.loads(text)["problems"] if p.startswith(name)]
        (row,) = [r for r in json.loads(text)["environment"] if r["name"] == name]
        assert row["value"] == value


@built
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_explain_on_the_command_line(capsys, layout, dtype):
    arguments = (*LAYER, "--layout", layout, "--dtype", dtype, "--stride", "2", "--bias")
    status, text, _ = run(capsys, *arguments)
    assert status == 0
    assert f"input (2, 8, 14, 14) {dtype} {layout} on cpu, kernel 3x3, stride 2x2" in text
    assert "padding 1/1/1/1 (top/bottom/left/right)" in text
    status, text, _ = run(capsys, *arguments, "--json")
    plans = json.loads(text)["plans"]
    assert list(plans) == list(PASSES)
    for plan in plans.values():
        assert plan["bytes"] > 0 and plan["flops"] > 0 and plan["reason"]


@built
def test_explain_counts_bytes_and_flops(capsys):
    arguments = (*LAYER, "--padding", "valid", "--pass", "forward", "--json")
    _, text, _ = run(capsys, *arguments, "--bandwidth", "10", "--throughput", "100")
    (plan,) = json.loads(text)["plans"].values()
    pixels, outputs = 2 * 8 * 14 * 14, 2 * 8 * 12 * 12
    assert plan["flops"] == 2 * 9 * outputs
    assert plan["bytes"] == 4 * (pixels + outputs + 8 * 9)
    assert plan["floor"] == max(plan["bytes"] / 10e9, plan["flops"] / 100e9)


@built
def test_explain_of_every_spelling_of_a_call_is_the_same():
    x = torch.randn(2, 8, 14, 14)
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    explained = [
        effkern.explain(conv, x),
        effkern.explain(effkern.DepthwiseConv2d.from_conv(conv), x),
        effkern.explain(effkern.functional.depthwise_conv2d, x, conv.weight, conv.bias, padding=1),
        effkern.explain(conv, input=x[0].clone()[None].expand(2, -1, -1, -1).contiguous()),
    ]
    assert all(e == explained[0] for e in explained)
    assert explained[0].plans["forward"].backend in ("cpu", "torch")
    assert effkern.explain(conv, x[0]).problem["batch"] == 1
    channels_last = effkern.explain(conv, x.contiguous(memory_format=torch.channels_last))
    assert channels_last.problem["layout"] == "channels_last"
    assert "channels_last on cpu" in str(channels_last)


@built
def test_explain_follows_padding_modes_autocast_and_backends():
    x = torch.randn(2, 8, 14, 14)
    conv = effkern.DepthwiseConv2d(8, 8, 3, padding=2, padding_mode="circular")
    problem = effkern.explain(conv, x).problem
    assert (problem["height"], problem["pad_top"]) == (18, 0), "padded before the operator"
    with torch.autocast("cpu", torch.bfloat16):
        assert effkern.explain(conv, x).problem["dtype"] == "bfloat16"
    with effkern.backend("torch"):
        plan = effkern.explain(conv, x).plans["grad_weight"]
        assert plan.backend == "torch" and "was asked for" in plan.reason and plan.bytes > 0
    plan = effkern.explain(conv.to("meta"), x.to("meta")).plans["forward"]
    assert plan.backend == "torch" and "meta" in plan.reason


@built
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "kernel, stride, dilation, multiplier",
    [(3, 1, 1, 1), (5, 2, 1, 1), (3, 50, 1, 2), (7, 3, 2, 1)],
)
def test_explain_of_triton_is_what_is_launched(layout, kernel, stride, dilation, multiplier):
    pytest.importorskip("triton")
    if _triton.interpreting():
        pytest.skip("wanted a process that compiles")
    from effkern.triton_kernels.depthwise_conv2d import launch

    from effkern.testing.triton_stub import recorded_launches

    module = effkern.DepthwiseConv2d(
        24, 24 * multiplier, kernel, stride, padding=kernel - 1, dilation=dilation
    ).to(torch.bfloat16)
    memory_format = getattr(torch, layout + "_format" * (layout == "contiguous"))
    x = torch.empty(3, 24, 20, 17, dtype=torch.bfloat16).contiguous(memory_format=memory_format)
    explained = effkern.explanation.explain_sizes(
        tuple(x.shape),
        tuple(module.weight.shape),
        (stride, stride, *4 * (kernel - 1,), dilation, dilation, 0),
        dtype=x.dtype,
        layout=layout,
        device="cuda",
        has_bias=True,
        backend="triton",
    )
    y = module(x).contiguous(memory_format=memory_format)
    most = [size + 2 * (kernel - 1) - dilation * (kernel - 1) for size in x.shape[2:]]
    geometry = (*(min(stride, ways) for ways in most), *4 * (kernel - 1,), dilation, dilation)
    weight, bias = module.weight.detach(), module.bias.detach()
    meta = [tensor.to("meta") for tensor in (x, weight, bias, y.detach())]
    x, weight, bias, y = meta
    for name, plan in explained.plans.items():
        with recorded_launches(90) as recorded:
            if name == "forward":
                launch.stencil("forward", x, weight, bias, None, y, geometry, 0, False)
            elif name == "grad_input":
                launch.stencil("backward", y, weight, None, None, x, geometry, 0, True)
            else:
                launch.weight_grad("backward", x, y, weight, bias, (kernel, kernel), geometry)
        (found,) = [one for one in recorded if one.kernel == plan.kernel]
        assert (plan.backend, plan.grid) == ("triton", found.grid[0]), name
        tile = [found.values[size] for size in ("ROWS", "COLUMNS", "CHANNELS")]
        assert plan.tile == "x".join(map(str, tile))
        packs = any(one.kernel == "pack_weight_kernel" for one in recorded)
        assert (plan.workspace > 0) == (packs or name == "grad_weight")


@built
@pytest.mark.parametrize("device, name", [("cpu", "triton"), ("cuda", "triton_interpreted")])
def test_explain_of_triton_wants_its_device(capsys, device, name):
    status, text, _ = run(capsys, *LAYER, "--device", "cuda", "--backend", "triton")
    assert status == 0 and "stencil_kernel" in text and "asked for by name" in text
    status, _, error = run(capsys, *LAYER, "--device", device, "--backend", name)
    assert status == 2 and f"wanted one that runs on {device} tensors, got '{name}'" in error


def test_explain_says_when_nothing_is_built(capsys, monkeypatch):
    monkeypatch.setattr(_library, "_error", ImportError("not built"))
    status, text, _ = run(capsys, *LAYER)
    assert status == 0 and "aten::convolution" in text and "not built" in text


def test_a_floor_needs_both_numbers():
    plan = Plan("torch", "aten::convolution", *(None,) * 5, 1000, 3000, "")
    assert plan.floor(1e9, 1e9) == 3e-6
    assert Plan("torch", "aten::convolution", *(None,) * 7, "").floor(1e9, 1e9) is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "the following arguments are required: command"),
        (("heal",), "invalid choice: 'heal'"),
        (("explain",), "the following arguments are required: --input, --kernel"),
        (("explain", "--input", "1,2,3", "--kernel", "3"), "wanted 4 integers .* got '1,2,3'"),
        (("explain", "--input", "1,2,x,4", "--kernel", "3"), "wanted 4 integers"),
        (("explain", "--input", "1,2,-3,4", "--kernel", "3"), "--input wants 0 or more"),
        ((*LAYER[:-1], "0"), "--kernel and --multiplier want 1 or more"),
        ((*LAYER, "--stride", "0"), "stride: wanted values >= 1"),
        ((*LAYER, "--padding", "full"), "argument --padding: wanted 1 or 2 or 4 integers"),
        ((*LAYER, "--padding", "same", "--stride", "2"), "'same' wants stride 1"),
        ((*LAYER, "--op", "conv3d"), "invalid choice: 'conv3d'"),
        ((*LAYER, "--dtype", "int8"), "invalid choice: 'int8'"),
        ((*LAYER, "--backend", "opencl"), "invalid choice: 'opencl'"),
        ((*LAYER, "--bandwidth", "10"), "--bandwidth and --throughput go together"),
        ((*LAYER, "--bandwidth", "-1", "--throughput", "1"), "wanted a positive number"),
    ],
)
def test_bad_arguments_end_with_a_message(capsys, arguments, message):
    status, printed, error = run(capsys, *arguments)
    assert status == 2 and not printed
    assert error.startswith("usage: python -m effkern")
    assert "Traceback" not in error
    assert re.search(message, error), error


@pytest.mark.parametrize("target", [nn.ReLU(), nn.Linear(2, 2), torch.relu, None])
def test_explain_refuses_what_it_does_not_know(target):
    with pytest.raises(TypeError, match="effkern.explain: module_or_function: wanted"):
        effkern.explain(target, torch.randn(1, 2, 3, 3))


def test_explain_refuses_calls_that_do_not_fit():
    with pytest.raises(TypeError, match="missing a required argument"):
        effkern.explain(effkern.DepthwiseConv2d(2, 2, 3))
    with pytest.raises(ValueError, match="groups: wanted in_channels"):
        effkern.explain(nn.Conv2d(2, 2, 3), torch.randn(1, 2, 5, 5))
