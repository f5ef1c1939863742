"""The machine code's accesses, followed by the interpreter of SASS, against those that the emulator
counts of the same kernel's source: two ways to the same traffic."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import effkern
from effkern import _library
from effkern.testing import cuda_gate
from effkern.testing.launch_facts import kernel_program
from effkern.testing.launches import record_call
from effkern.testing.sass_interpreter import Interpreter

LIBRARY = Path(effkern.__file__).with_name("libeffkern_ops.so")


@pytest.fixture(scope="module")
def counted(build_runner):
    """What the emulator counts on one image of one channel, 4x32, with a 3x3 kernel: by pass."""
    _, text = build_runner("plain", "depthwise_conv2d")("--cases", "counted", "--count")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["pass"]: line["kernels"] for line in lines}


@pytest.mark.parametrize("capability", (80, 90), ids="sm_{}".format)
@pytest.mark.parametrize(
    "pass_, name", [("fwd", "forward"), ("dgrad", "grad_input"), ("wgrad", "grad_weight")]
)
def test_the_same_traffic(counted, capability, pass_, name):
    required = "cuda_emulated" in os.environ.get("EFFKERN_REQUIRE_BACKENDS", "")
    if _library.emulation_error() or capability not in cuda_gate.capabilities(LIBRARY):
        reason = "wanted the emulated library and machine code, got one of them or none"
        (pytest.fail if required else pytest.skip)(reason)
    input, weight = torch.empty(1, 1, 4, 32), torch.empty(1, 1, 3, 3)
    geometry = (1, 1, 1, 1, 1, 1, 1, 1)
    launches = record_call(pass_, input, weight, None, torch.empty(1, 1, 4, 32), geometry)
    assert len(launches) == len(counted[name])
    for launch, wanted in zip(launches, counted[name], strict=True):
        short = cuda_gate.short_name(launch.kernel)
        assert short == cuda_gate.short_name(wanted["kernel"])
        assert launch.blocks == wanted["blocks"]
        interpreter = Interpreter(
            kernel_program(LIBRARY, capability, short),
            capability,
            launch.grid,
            launch.block,
            launch.parameters,
            np.arange(launch.blocks),
        )
        interpreter.run()
        traffic = interpreter.traffic
        for found, space in (
            (traffic.global_loads, wanted["global_loads"]),
            (traffic.global_stores, wanted["global_stores"]),
        ):
            assert found.bytes == space["bytes"]
            # A buffer may begin within a sector.
            assert abs(found.unique_sectors - space["unique_sectors"]) <= 2
