"""The launches that a problem becomes on a GPU, and what each of them does; no GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import effkern
from effkern import prediction
from effkern.prediction import Ceilings, Prediction
from effkern.testing import triton_gate, triton_launch_facts, triton_stub
from effkern.testing.launch_facts import LaunchFacts, cuda_facts, works
from effkern.testing.launches import record_call
from effkern.testing.sass_interpreter import TooLongError

from .problem import DTYPES, LAYOUTS, Problem

LIBRARY = Path(effkern.__file__).with_name("libeffkern_ops.so")
# More than kernels take that loop over the rows of a tile, or over images on tensor cores; less
# than those that loop over the taps of a large kernel.
MOST_STEPS = 20_000
_BASELINES = Path(__file__).parents[1] / "tests" / "compile" / "baselines"
# By fingerprint.
_compiled: dict[str, triton_gate.Facts] = {}


def _geometry(problem: Problem) -> tuple[int, ...]:
    layer = problem.layer
    return (
        *(layer.stride_h, layer.stride_w, layer.pad_top, layer.pad_bottom),
        *(layer.pad_left, layer.pad_right, layer.dilation_h, layer.dilation_w),
    )


def _operands(problem: Problem, layout: str, device: str) -> tuple[Any, Any, Any, Any]:
    """input, weight, bias and grad_output; nothing is in them."""
    layer, dtype = problem.layer, DTYPES[problem.dtype]

    def image(channels: int, height: int, width: int) -> torch.Tensor:
        shape = (problem.batch, channels, height, width)
        return torch.empty(shape, dtype=dtype, device=device, memory_format=LAYOUTS[layout])

    taps = (layer.kernel_h, layer.kernel_w)
    weight = torch.empty((layer.out_channels, 1, *taps), dtype=dtype, device=device)
    bias = weight.new_empty(layer.out_channels) if layer.bias else None
    return (
        image(layer.channels, layer.height, layer.width), weight, bias,
        image(layer.out_channels, layer.out_height, layer.out_width),
    )  # fmt: skip


def _cuda(problem: Problem, layout: str, capability: int, **limits: int) -> list[LaunchFacts]:
    input, weight, bias, grad_output = _operands(problem, layout, "cpu")
    launches = record_call(problem.pass_, input, weight, bias, grad_output, _geometry(problem))
    return [cuda_facts(launch, LIBRARY, capability, **limits) for launch in launches]


def cuda_calls(
    problem: Problem, layout: str, capability: int, most_steps: int = MOST_STEPS
) -> tuple[list[LaunchFacts], int]:
    """The launches of backend cuda, and the batch that they were looked at with: 1 where a kernel
    takes too long to be run, whose work grows in proportion to the batch."""
    try:
        return _cuda(problem, layout, capability, most_steps=most_steps), problem.batch
    except TooLongError:
        found = _cuda(replace(problem, batch=1), layout, capability)
        return [facts.scaled(problem.batch) for facts in found], 1


@cache
def _baseline(capability: int) -> dict[str, Any]:
    path = _BASELINES / f"triton-sm_{capability}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _code_facts(launch: triton_stub.Launch) -> triton_gate.Facts:
    """From the gate's baseline, or compiled."""
    key = launch.fingerprint
    if key not in _compiled:
        entry = _baseline(launch.capability).get(key)
        _compiled[key] = (
            triton_gate.facts_of_json(entry) if entry else triton_gate.facts(launch.compile())
        )
    return _compiled[key]


def triton_calls(problem: Problem, layout: str, capability: int) -> tuple[list[LaunchFacts], int]:
    """The launches of backend triton; the facts of code that the gate's baseline has are its."""
    from effkern.triton_kernels.depthwise_conv2d import launch

    input, weight, bias, grad_output = _operands(problem, layout, "meta")
    layer, geometry = problem.layer, _geometry(problem)
    with triton_stub.recorded_launches(capability) as launches:
        if problem.pass_ == "fwd":
            launch.stencil("", input, weight, bias, None, grad_output, geometry, 0, False)
        elif problem.pass_ == "dgrad":
            launch.stencil("", grad_output, weight, None, None, input, geometry, 0, True)
        else:
            taps = (layer.kernel_h, layer.kernel_w)
            launch.weight_grad("", input, grad_output, weight, bias, taps, geometry)
    itemsize = DTYPES[problem.dtype].itemsize
    sizes = triton_launch_facts.geometry(layer, problem.batch, itemsize)
    facts = [triton_launch_facts.triton_facts(one, _code_facts(one), sizes) for one in launches]
    return facts, problem.batch


def predict(problem: Problem, facts: list[LaunchFacts], ceilings: Ceilings) -> Prediction:
    """Blocks of one image run together in every kernel: what they read again is touched between
    two reads at most once around an image."""
    window = problem.bytes / problem.batch
    return prediction.predict(
        works(facts, problem.bytes, window, ceilings), problem.bytes, ceilings
    )
