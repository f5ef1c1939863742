"""depthwise_conv2d on problems that hypothesis draws.

What it finds becomes a case in effkern/testing/problems.py or a named test here.
"""

from __future__ import annotations

import math

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from effkern import _triton
from effkern.functional import depthwise_conv2d
from effkern.ops.depthwise_conv2d import ACTIVATIONS
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output, without_kinks
from effkern.testing.poison import SentinelBuffer
from effkern.testing.problems import LAYOUTS
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.thinning import tile_taps

# Activations without a transcendental function.
EXACT = (None, "relu", "relu6", "hardswish")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pairs(values):
    return st.tuples(values, values)


@st.composite
def cases(draw):
    size = st.integers(1, 40) | st.sampled_from((64, 65, 127))
    case = Case(
        batch=draw(st.integers(0, 4)),
        channels=draw(st.integers(1, 33)),
        height=draw(size),
        width=draw(size),
        kernel=draw(
            pairs(st.integers(1, 7)) | st.sampled_from(((9, 9), (13, 13), (31, 31), (1, 21)))
        ),
        multiplier=draw(st.sampled_from((1, 1, 1, 2, 3))),
        stride=draw(pairs(st.integers(1, 4))),
        padding=draw(pairs(pairs(st.integers(0, 16)))),
        dilation=draw(pairs(st.integers(1, 3))),
        bias=draw(st.booleans()),
    )
    assume(min(case.output_shape[2:]) >= 1)
    # Small enough for hundreds of them.
    assume(math.prod(case.output_shape) * math.prod(case.kernel) <= 1_000_000)
    return case


def check(backend, case, layouts, dtype, activation, offset):
    drawn = [case.tensors(dtype, backend.device, layout) for layout in layouts]
    input, weight, bias, grad_output = drawn[0][0], drawn[1][1], drawn[0][2], drawn[2][3]
    input = SentinelBuffer(input, offset).view if layouts[0] != "sliced" else input

    output = depthwise_conv2d(input, weight, bias, **case.kwargs, activation=activation)
    expected_output(case, input, weight, bias, activation).check(output, "output")

    grad_output = without_kinks(case, grad_output, input, weight, bias, activation)
    leaves = [t.detach().requires_grad_() for t in (input, weight, bias) if t is not None]
    output = depthwise_conv2d(*leaves, **case.kwargs, activation=activation)
    grads = torch.autograd.grad(output, leaves, grad_output)
    expected = expected_gradients(case, grad_output, input, weight, bias, activation)
    for name, got, wanted in zip(("input", "weight", "bias"), grads, expected, strict=False):
        wanted.check(got, f"grad_{name}")


@settings(
    max_examples=15 if _triton.interpreting() else 200, suppress_health_check=list(HealthCheck)
)
@given(
    case=cases(),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(list(ACTIVATIONS)),
    offset=st.integers(0, 16),
)
def test_drawn_problems(backend, case, layouts, dtype, activation, offset):
    assume(not backend.slow or tile_taps(case) <= 100)
    if activation not in EXACT and math.prod(case.output_shape) < 256:
        # Too few values of exp or erf to know torch's error by.
        activation = "relu"
    check(backend, case, layouts, dtype, activation, offset)
