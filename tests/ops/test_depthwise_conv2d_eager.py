"""The lean path of eager calls on CPU: what it takes is what the operator gives, and what is not
plain is left to the others."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import effkern
from effkern import _library
from effkern.ops.depthwise_conv2d.operators import BY_BACKEND
from effkern.registry import BACKENDS
from effkern.testing.problems import DEPTHWISE_CONV2D_CASES

if not _library.available():
    pytest.skip(str(_library.load_error()), allow_module_level=True)

from effkern.ops.depthwise_conv2d import eager

CPU = BACKENDS["cpu"]
WIDE = BY_BACKEND[CPU]
GEOMETRY = (1, 1, 1, 1, 1, 1, 1, 1)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# As they are, channels_last, part of a larger tensor, expanded along the batch.
VIEWS = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:1].expand(t.shape),
}


def tensors(dtype=torch.float32, shape=(2, 6, 5, 7)):
    generator = torch.Generator().manual_seed(0)
    shapes = shape, (shape[1], 1, 3, 3), (shape[1],)
    return [torch.randn(s, generator=generator).to(dtype) for s in shapes]


def lean(input, weight, bias=None, stride=1, padding=1, dilation=1, activation=None, backend=CPU):
    return eager.lean_forward(input, weight, bias, stride, padding, dilation, activation, backend)


def lean_backward(grad, input, weight, geometry=GEOMETRY, needs=(True, True, True), backend=CPU):
    return eager.lean_backward(grad, input, weight, geometry, needs, backend)


def same(actual, wanted):
    assert torch.equal(actual, wanted)
    assert actual.dtype == wanted.dtype and actual.stride() == wanted.stride()
    assert not actual.requires_grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("case", DEPTHWISE_CONV2D_CASES, ids=lambda case: case.id)
def test_the_same_as_the_operator(case, view, dtype):
    input, weight, bias, grad = case.tensors(dtype, "cpu", "contiguous")
    input = VIEWS[view](input)
    params = effkern.ops.depthwise_conv2d.resolve(weight.shape[-2:], **case.kwargs)
    actual = eager.lean_forward_resolved(input, weight, bias, params, CPU)
    wanted = WIDE.lean_forward(input, weight, bias, *params, CPU)
    # No image, and strides past the kernel's last position, are left to the operator.
    if case.batch == 0 or case.output_shape[2:] == (1, 1) != case.stride:
        assert actual is None
        return
    same(actual, wanted)
    needs = (True, True, bias is not None)
    found = eager.lean_backward(grad, input, weight, params[:8], needs, CPU)
    wanted = WIDE.lean_backward(grad, input, weight, *params[:8], *needs, CPU)
    for a, w in zip(found, wanted, strict=True):
        if a is not None:
            same(a, w)


@pytest.mark.parametrize("activation", (None, *list(effkern.ops.depthwise_conv2d.ACTIVATIONS)[1:]))
def test_words_and_pairs(activation):
    input, weight, bias = tensors()
    actual = lean(input, weight, bias, (2, 1), (1, 0), (1, 2), activation, BACKENDS["auto"])
    code = effkern.ops.depthwise_conv2d.ACTIVATIONS[activation]
    same(actual, WIDE.lean_forward(input, weight, bias, 2, 1, 1, 1, 0, 0, 1, 2, code, CPU))


@pytest.mark.parametrize("needs", list(product((False, True), repeat=3)), ids=str)
def test_only_the_gradients_that_are_needed(needs):
    input, weight, _ = tensors()
    found = lean_backward(input, input, weight, needs=needs)
    wanted = WIDE.lean_backward(input, input, weight, *GEOMETRY, *needs, CPU)
    for needed, a, w in zip(needs, found, wanted, strict=True):
        same(a, w) if needed else None
        assert needed or a is None


class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class NoFunction(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@contextmanager
def inside_a_transform():
    torch._C._functorch._grad_increment_nesting()
    try:
        yield
    finally:
        torch._C._functorch._grad_decrement_nesting()


STATES = {
    "dispatch mode": Nothing,
    "function mode": NoFunction,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "forward mode": forward_ad.dual_level,
    "transform": inside_a_transform,
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    "legacy profiler": torch.autograd.profiler.profile,
}


@pytest.mark.parametrize("state", STATES)
def test_states_that_are_not_plain(state):
    input, weight, bias = tensors()
    assert lean(input, weight, bias) is not None
    with STATES[state]():
        assert lean(input, weight, bias) is None
        assert lean_backward(input, input, weight) is None
    assert lean(input, weight, bias) is not None
    assert lean_backward(input, input, weight) is not None


def test_a_trace_is_not_plain():
    input, weight, _ = tensors()
    found = []

    def function(x):
        found.append(lean(x, weight))
        return x + 1

    torch.jit.trace(function, (input,), check_trace=False)
    assert found == [None]


def test_the_profiler_sees_the_operator():
    input, weight, _ = tensors()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        effkern.functional.depthwise_conv2d(input, weight, padding=1)
    assert any("effkern" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("which", range(3))
def test_gradients_are_not_recorded_here(which):
    arguments = tensors()
    arguments[which].requires_grad_()
    assert lean(*arguments) is None
    with torch.no_grad():
        assert lean(*arguments) is not None
    with torch.inference_mode():
        assert lean(*arguments).is_inference()


class Subclass(torch.Tensor):
    pass


INPUT, WEIGHT, BIAS = tensors()
CALLS = {
    "subclass": (INPUT.as_subclass(Subclass), WEIGHT),
    "no tensor": (np.zeros((2, 6, 5, 7)), WEIGHT),
    "meta": (INPUT.to("meta"), WEIGHT.to("meta")),
    "integers": (INPUT.int(), WEIGHT.int()),
    "complex": (INPUT.to(torch.complex64), WEIGHT.to(torch.complex64)),
    "sparse": (INPUT.to_sparse(), WEIGHT),
    "two dtypes": (INPUT, WEIGHT.double()),
    "bias of another dtype": (INPUT, WEIGHT, BIAS.half()),
    "unbatched": (INPUT[0], WEIGHT),
    "no image": (INPUT[:0], WEIGHT),
    "no channels": (INPUT[:, :0], WEIGHT),
    "dense weight": (INPUT, WEIGHT.expand(6, 6, 3, 3)),
    "weight of other channels": (INPUT, WEIGHT[:5]),
    "weight without dimensions": (INPUT, WEIGHT[0, 0]),
    "bias of other channels": (INPUT, WEIGHT, BIAS[:5]),
    "bias of two dimensions": (INPUT, WEIGHT, BIAS[None]),
    "lazy negation": (torch.view_as_complex(torch.stack([INPUT, INPUT], -1)).conj().imag, WEIGHT),
    "no memory": (torch._efficientzerotensor(INPUT.shape), WEIGHT),
    "stride 0": (INPUT, WEIGHT, None, 0),
    "stride true": (INPUT, WEIGHT, None, True),
    "stride of numpy": (INPUT, WEIGHT, None, np.int64(1)),
    "stride past the kernel": (INPUT, WEIGHT, None, 6),
    "three strides": (INPUT, WEIGHT, None, (1, 1, 1)),
    "a list": (INPUT, WEIGHT, None, [1, 1]),
    "a float": (INPUT, WEIGHT, None, 1.0),
    "negative padding": (INPUT, WEIGHT, None, 1, -1),
    "padding in words": (INPUT, WEIGHT, None, 1, "same"),
    "padding in pairs": (INPUT, WEIGHT, None, 1, ((1, 1), (1, 1))),
    "large padding": (INPUT, WEIGHT, None, 1, 2**62),
    "huge padding": (INPUT, WEIGHT, None, 1, 2**80),
    "dilation 0": (INPUT, WEIGHT, None, 1, 1, 0),
    "a kernel that does not fit": (INPUT, WEIGHT, None, 1, 0, 3),
    "unknown activation": (INPUT, WEIGHT, None, 1, 1, 1, "tanh"),
    "activation that is no str": (INPUT, WEIGHT, None, 1, 1, 1, 3),
    "backend torch": (INPUT, WEIGHT, None, 1, 1, 1, None, BACKENDS["torch"]),
    "backend triton": (INPUT, WEIGHT, None, 1, 1, 1, None, BACKENDS["triton"]),
    "backend None": (INPUT, WEIGHT, None, 1, 1, 1, None, None),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_are_not_plain(call):
    assert lean(*CALLS[call]) is None


def test_gradients_that_are_not_plain():
    for grad in (INPUT[:1], INPUT.double(), INPUT[..., :-1], None):
        assert lean_backward(grad, INPUT, WEIGHT) is None
    assert lean_backward(INPUT, INPUT, WEIGHT, backend=BACKENDS["torch"]) is None
    assert lean_backward(INPUT, INPUT, WEIGHT, geometry=(1, 1)) is None
    assert lean_backward(INPUT, INPUT, WEIGHT, needs=(True, True)) is None
    assert lean_backward(INPUT, INPUT, WEIGHT, geometry=(*GEOMETRY[:7], -1)) is None


def test_wrong_numbers_of_arguments():
    assert eager.lean_forward(INPUT, WEIGHT) is None
    assert eager.lean_forward_resolved(INPUT, WEIGHT, None, (*GEOMETRY, 9), CPU) is None
    assert eager.lean_forward_resolved(INPUT, WEIGHT, None, [*GEOMETRY, 0], CPU) is None
    assert eager.lean_backward() is None


@pytest.mark.parametrize("missing", ("kernels", "exchange_api", "grad_enabled", "bfloat16"))
def test_without_what_it_needs(monkeypatch, missing):
    configure = effkern._C.configure_eager

    def without(needed):
        return configure({name: value for name, value in needed.items() if name != missing})

    monkeypatch.setattr(effkern._C, "configure_eager", without)
    assert eager._lean_functions() == (eager._no_lean_path,) * 3


def test_a_torch_without_the_interface(monkeypatch):
    monkeypatch.setattr(effkern._C, "configure_eager", lambda needed: False)
    assert eager._lean_functions()[0](INPUT, WEIGHT) is None


def test_without_the_lean_path_calls_are_the_same(monkeypatch):
    with effkern.backend("cpu"):
        wanted = effkern.functional.depthwise_conv2d(INPUT, WEIGHT, BIAS, padding=1)
        monkeypatch.setattr(effkern.ops.depthwise_conv2d, "_lean_forward", eager._no_lean_path)
        same(effkern.functional.depthwise_conv2d(INPUT, WEIGHT, BIAS, padding=1), wanted)


def test_nothing_is_kept():
    input, weight, bias = tensors(shape=(1, 4, 8, 8))
    references = [sys.getrefcount(t) for t in (input, weight, bias, None)]
    for _ in range(10000):
        lean(input, weight, bias)
        lean_backward(input, input, weight, needs=(True, False, True))
        lean(input, weight, bias, 0)
        lean(input[0], weight, bias)
    after = [sys.getrefcount(t) for t in (input, weight, bias, None)]
    assert after[:3] == references[:3]
    # Others count None, too.
    assert abs(after[3] - references[3]) < 5000
