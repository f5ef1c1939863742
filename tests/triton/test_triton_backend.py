"""Whether Triton can run, and why not; its operators refuse what the native ones refuse."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

import effkern
from effkern import _library, _triton
from effkern.functional import depthwise_conv2d
from effkern.registry import BACKENDS
from effkern.testing.problems import DepthwiseConv2dCase as Case

native = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))
GOOD = Case(batch=2, channels=4, height=5, width=6, padding=0)


def run_python(code, **environment):
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("interpreted", (False, True))
def test_triton_is_not_installed(monkeypatch, interpreted):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = _triton.unavailable_reason(interpreted)
    assert reason.startswith("triton is not installed: install ")
    assert "pip install triton==" in reason


@pytest.mark.parametrize("version", ("3.5.1", "2.1.0", "unknown"))
def test_triton_is_too_old(monkeypatch, version):
    monkeypatch.setattr(_triton, "_version", lambda: version)
    reason = _triton.unavailable_reason(interpreted=False)
    assert reason.startswith(f"wanted triton 3.6 or newer, got {version}: install ")


@pytest.mark.parametrize("version", ("3.6.0", "3.8.0", "4.0.0+git1234"))
def test_newer_versions_are_tried(monkeypatch, version):
    monkeypatch.setattr(_triton, "_version", lambda: version)
    assert "newer" not in (_triton.unavailable_reason(interpreted=False) or "")


@native
def test_the_interpreter_is_off():
    code = """
import torch, effkern
from effkern.functional import depthwise_conv2d
with effkern.backend("triton_interpreted"):
    depthwise_conv2d(torch.ones(1, 2, 5, 5), torch.ones(2, 1, 3, 3))
"""
    finished = run_python(code)
    (error,) = finished.stderr.splitlines()[-1:]
    assert error.startswith("RuntimeError: effkern.depthwise_conv2d: backend: wanted ")
    assert "'triton_interpreted'" in error and "set TRITON_INTERPRET=1" in error


def test_the_interpreter_is_switched_on_too_late():
    code = """
import os, triton.language, effkern
os.environ["TRITON_INTERPRET"] = "1"
print(effkern.backends()["triton_interpreted"])
"""
    assert "was set after triton was imported" in run_python(code).stdout


def test_an_interpreting_process_compiles_nothing():
    code = "import effkern; print(effkern.backends()['triton'])"
    assert "unset it" in run_python(code, TRITON_INTERPRET="1").stdout


@native
def test_backend_triton_on_cpu_tensors():
    with effkern.backend("triton"), pytest.raises(RuntimeError) as caught:
        depthwise_conv2d(torch.ones(1, 2, 5, 5), torch.ones(2, 1, 3, 3))
    message = str(caught.value)
    assert "wanted one that runs Triton kernels on cpu tensors" in message
    assert message.endswith("got triton")


def error_of(operator, arguments):
    with pytest.raises(RuntimeError) as caught:
        operator(*arguments)
    return str(caught.value)


MISTAKES = {
    "input_3d": {"input": torch.ones(4, 5, 6)},
    "input_int": {"input": torch.ones(2, 4, 5, 6, dtype=torch.int32)},
    "no_channels": {"input": torch.ones(2, 0, 5, 6)},
    "no_rows": {"input": torch.ones(2, 4, 0, 6)},
    "weight_float64": {"weight": torch.ones(4, 1, 3, 3, dtype=torch.float64)},
    "weight_3d": {"weight": torch.ones(4, 3, 3)},
    "weight_dense": {"weight": torch.ones(4, 2, 3, 3)},
    "weight_no_multiple": {"weight": torch.ones(6, 1, 3, 3)},
    "weight_empty": {"weight": torch.ones(4, 1, 0, 3)},
    "kernel_too_high": {"weight": torch.ones(4, 1, 6, 3)},
    "bias_size": {"bias": torch.ones(5)},
    "bias_half": {"bias": torch.ones(4, dtype=torch.float16)},
    "stride_0": {"stride_h": 0},
    "dilation_negative": {"dilation_w": -1},
    "dilation_huge": {"dilation_h": 2**62},
    "padding_negative": {"pad_left": -2},
    "padding_huge": {"pad_bottom": 2**62},
    "output_huge": {"pad_bottom": 2**39, "pad_right": 2**39},
    "activation_7": {"activation": 7},
    "activation_negative": {"activation": -1},
    "backend_7": {"backend": 7},
    "grad_shape": {"grad_output": torch.ones(2, 4, 3, 3)},
    "grad_float64": {"grad_output": torch.ones(2, 4, 3, 4, dtype=torch.float64)},
}


@native
@pytest.mark.parametrize("mistake", list(MISTAKES.values()), ids=list(MISTAKES))
@pytest.mark.parametrize("prefix", ("", "_"), ids=("public", "lean"))
@pytest.mark.parametrize("name", ("", "_backward", "_activation_backward"))
def test_same_words_as_the_native_operator(name, prefix, mistake):
    scope = torch.ops.effkern
    ours = getattr(scope, f"{prefix}depthwise_conv2d{name}_triton").default
    theirs = getattr(scope, f"{prefix}depthwise_conv2d{name}").default
    tensors = GOOD.tensors(torch.float32)
    values = dict(zip(("input", "weight", "bias", "grad_output"), tensors, strict=True))
    names = [argument.name for argument in ours._schema.arguments]
    if not mistake.keys() <= set(names):
        pytest.skip("no such argument")
    start = names.index("stride_h")
    values |= dict(zip(names[start : start + 8], GOOD.geometry, strict=True))
    values |= {"activation": 0, "backend": BACKENDS["auto"]}
    values |= dict.fromkeys(("need_input", "need_weight", "need_bias"), True) | mistake
    arguments = [values[name] for name in names]
    assert error_of(ours, arguments) == error_of(theirs, arguments)
