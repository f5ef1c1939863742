"""Backends: which there are, how one is chosen, and what a wrong name says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.profiler import profile

import effkern
from effkern import _library, registry
from effkern.functional import depthwise_conv2d

NAMES = ("auto", "cpu", "cuda", "triton", "torch", "cuda_emulated", "triton_interpreted")


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_names_and_their_integers():
    # Part of the operators' schemas: never renumbered.
    assert registry.BACKENDS == {name: code for code, name in enumerate(NAMES)}


def test_backends_are_present_or_say_why_not():
    states = effkern.backends()
    assert tuple(states) == NAMES
    assert states["auto"] is True and states["torch"] is True
    for name, state in states.items():
        assert state is True or (isinstance(state, str) and len(state) > 20), name


def test_cpu_backend_is_present_when_the_library_is():
    assert (effkern.backends()["cpu"] is True) == _library.available()


@pytest.mark.skipif(not _library.has_cuda_kernels(), reason="effkern is built without CUDA")
@pytest.mark.parametrize(
    ("patch", "reason"),
    (
        ({"version.cuda": None}, "built without CUDA"),
        ({"cuda.is_available": bool}, "no CUDA device"),
    ),
    ids=("rocm_or_cpu_torch", "no_device"),
)
def test_why_cuda_is_not_there(monkeypatch, patch, reason):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in patch.items():
        monkeypatch.setattr(f"torch.{name}", value)
    assert reason in effkern.backends()["cuda"]


class TestContextManager:
    def test_nests_and_restores(self):
        before = registry.current()
        with effkern.backend("torch"):
            assert registry.current() == "torch"
            with effkern.backend("auto"):
                assert registry.current() == "auto"
            assert registry.current() == "torch"
        assert registry.current() == before

    def test_restores_after_an_exception(self):
        before = registry.current()
        with pytest.raises(KeyError), effkern.backend("torch"):
            raise KeyError
        assert registry.current() == before

    def test_holds_for_other_threads(self):
        # The backward pass runs on autograd's threads.
        seen = []
        with effkern.backend("torch"):
            thread = threading.Thread(target=lambda: seen.append(registry.current()))
            thread.start()
            thread.join()
        assert seen == ["torch"]

    @pytest.mark.parametrize("name", ("CPU", "", "gpu", "cpu "))
    def test_unknown_name(self, name):
        before = registry.current()
        with pytest.raises(ValueError) as caught, effkern.backend(name):
            pass
        assert repr(name) in str(caught.value)
        assert all(known in str(caught.value) for known in NAMES)
        assert registry.current() == before

    @pytest.mark.parametrize("name", (None, 1, b"cpu"), ids=str)
    def test_not_a_name(self, name):
        with pytest.raises(TypeError, match=f"wanted a str, got {type(name).__name__}"):
            with effkern.backend(name):
                pass


def test_set_default(monkeypatch):
    monkeypatch.setattr(registry, "selected", registry.selected)
    registry.set_default("torch")
    assert registry.current() == "torch"
    with pytest.raises(ValueError, match="'fast'"):
        registry.set_default("fast")
    assert registry.current() == "torch"


@pytest.mark.parametrize("name", NAMES)
def test_environment_variable(name):
    finished = run_python(
        "from effkern import registry; print(registry.current())", EFFKERN_BACKEND=name
    )
    assert (finished.stdout.strip(), finished.stderr) == (name, "")


def test_environment_variable_with_an_unknown_name():
    finished = run_python("import effkern", EFFKERN_BACKEND="gpu")
    assert finished.returncode != 0
    error = finished.stderr.splitlines()[-1]
    assert error.startswith("ValueError: EFFKERN_BACKEND: ") and "'gpu'" in error
    assert all(known in error for known in NAMES)


def operators_of(call):
    with profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        call()
    return {event.name for event in profiler.events()}


@pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))
def test_the_chosen_backend_runs_and_is_kept_for_the_backward_pass():
    input = torch.randn(1, 4, 5, 6, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    for chosen, other in (("cpu", "torch"), ("torch", "cpu")):
        with effkern.backend(chosen):
            output = depthwise_conv2d(input, weight)
            forward = operators_of(lambda: depthwise_conv2d(input, weight))
        with effkern.backend(other):
            backward = operators_of(output.sum().backward)
        for names in (forward, backward):
            ours = any(name.startswith("effkern::") for name in names)
            theirs = any("aten::" in name and "convolution" in name for name in names)
            assert (ours, theirs) == (chosen == "cpu", chosen == "torch"), names


def test_backend_torch_is_torch():
    input, weight = torch.randn(2, 4, 9, 9), torch.randn(8, 1, 3, 3)
    with effkern.backend("torch"):
        actual = depthwise_conv2d(
            input, weight, stride=2, padding=((0, 1), (1, 0)), activation="silu"
        )
    padded = torch.nn.functional.pad(input, (1, 0, 0, 1))
    wanted = torch.nn.functional.silu(torch.conv2d(padded, weight, stride=2, groups=4))
    assert torch.equal(actual, wanted)
