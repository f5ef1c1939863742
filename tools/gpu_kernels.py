"""Runs every kernel family once, each result checked against torch on the CPU.

    compute-sanitizer --tool racecheck python tools/gpu_kernels.py --backend cuda
    ncu --clock-control none python tools/gpu_kernels.py --backend triton --layers 10

Small problems with ragged sizes, for tools that make a kernel a thousand times slower; with
--layers, layers of real models in bfloat16.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import effkern
from effkern.functional import depthwise_conv2d

DTYPES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Problem(NamedTuple):
    """`shape` is (N, C, H, W)."""

    shape: tuple[int, int, int, int]
    kernel: int
    stride: int
    dilation: int = 1


# Of each specialised kernel, and one that none of them takes.
FAMILIES = (
    *(Problem((2, 24, 13, 11), kernel, stride) for kernel in (3, 5) for stride in (1, 2)),
    *(Problem((2, 24, 13, 11), 7, 1), Problem((2, 9, 12, 10), 3, 2, dilation=2)),
)


def layer_problems(count: int, batch: int) -> Iterator[Problem]:
    """Layers of real models, evenly from the lightest to the heaviest."""
    workloads = importlib.import_module("benchmarks.workloads")
    layers = sorted(
        workloads.distinct(workloads.models()),
        key=lambda layer: layer.channels * layer.out_height * layer.out_width * layer.kernel_h,
    )
    for i in range(count):
        layer = layers[i * len(layers) // count]
        shape = (batch, layer.channels, layer.height, layer.width)
        yield Problem(shape, layer.kernel_h, layer.stride_h, layer.dilation_h)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over that of the expected; NaN counts as infinite."""
    expected = expected.detach().double()
    difference = (actual.detach().double().cpu() - expected).norm()
    found = float(difference / expected.norm())
    return found if found == found else float("inf")


def run(problem: Problem, dtype: torch.dtype, layout: str, backend: str) -> dict[str, float]:
    """The errors of output and gradients, against float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    channels = problem.shape[1]
    x, w, b = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in (problem.shape, (channels, 1, problem.kernel, problem.kernel), (channels,))
    )
    padding = problem.dilation * (problem.kernel - 1) // 2
    device = "cuda" if backend in ("cuda", "triton") else "cpu"

    def leaves(*tensors: torch.Tensor, **where: Any) -> list[torch.Tensor]:
        return [t.to(**where).requires_grad_() for t in tensors]

    def call(function: Any, operands: list[torch.Tensor], *groups: int) -> torch.Tensor:
        return function(*operands, problem.stride, padding, problem.dilation, *groups)

    exact = leaves(x, w, b, dtype=torch.float64)
    expected = call(torch.nn.functional.conv2d, exact, channels)
    grad = torch.randn(expected.shape, generator=generator).to(dtype)
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    mine = leaves(x.contiguous(memory_format=LAYOUTS[layout]), w, b, device=device)
    with effkern.backend(backend):
        output = call(depthwise_conv2d, mine)
        grad = grad.contiguous(memory_format=LAYOUTS[layout]).to(device)
        got = [output, *torch.autograd.grad(output, mine, grad)]
    names = ("output", "grad_input", "grad_weight", "grad_bias")
    return {name: error(*pair) for name, *pair in zip(names, got, wanted, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", default="cuda", choices=list(effkern.backends()))
    parser.add_argument("--layers", type=int, default=0, help="so many layers of real models")
    parser.add_argument("--problems", type=int, help="no more than the first of them")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    problems, dtypes = list(FAMILIES), dict(DTYPES)
    if options.layers:
        on_gpu = options.backend in ("cuda", "triton")
        problems = list(layer_problems(options.layers, 32 if on_gpu else 1))
        dtypes = {torch.bfloat16: DTYPES[torch.bfloat16]}
    failed = 0
    for problem, (dtype, tolerance), layout in itertools.product(
        problems[: options.problems], dtypes.items(), LAYOUTS
    ):
        errors = run(problem, dtype, layout, options.backend)
        wrong = not all(found < tolerance for found in errors.values())
        failed += wrong
        words = (f"{name} {found:.1e}" for name, found in errors.items())
        print("FAILED" if wrong else "ok", dtype, layout, *words, problem, flush=True)
    print(f"{failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
