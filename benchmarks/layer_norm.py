"""depthwise_conv2d_layer_norm against torch, interleaved: `python -m benchmarks.layer_norm`.

The stages of ConvNeXt-T, forward and forward + backward, both layouts of torch.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from effkern.functional import depthwise_conv2d, depthwise_conv2d_layer_norm

from .blocks import Call, block, no_garbage_collection, probe, rest

# Channels and height = width.
STAGES = ((96, 56), (192, 28), (384, 14), (768, 7))
ROUNDS, CALLS = 9, 5


def _torch(convolution, *tensors: Tensor) -> Tensor:
    # NHWC, as a ConvNeXt block goes on with it.
    input, weight, bias, *norm = tensors
    output = convolution(input, weight, bias).permute(0, 2, 3, 1)
    return F.layer_norm(output, (output.shape[-1],), *norm, 1e-6)


def _conv2d(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(input, weight, bias, padding=3, groups=weight.shape[0])


def with_gradients(function, tensors: list[Tensor], grad: Tensor) -> None:
    torch.autograd.grad(function(*tensors), tensors, grad)


def _calls(batch: int, channels: int, size: int, backward: bool) -> dict[str, partial]:
    tensors = [
        torch.randn(shape, requires_grad=backward)
        for shape in ((channels, 1, 7, 7), (channels,), (channels,), (channels,))
    ]
    image = torch.randn(batch, channels, size, size)
    last = image.contiguous(memory_format=torch.channels_last)
    grad = torch.randn(batch, size, size, channels)
    effkern_norm = partial(depthwise_conv2d_layer_norm, padding=3)
    functions = {
        "torch contiguous": (partial(_torch, _conv2d), image),
        "torch channels_last": (partial(_torch, _conv2d), last),
        "two operators": (partial(_torch, partial(depthwise_conv2d, padding=3)), last),
        "effkern": (effkern_norm, last),
        "effkern contiguous": (effkern_norm, image),
    }
    calls = {}
    for name, (function, input) in functions.items():
        operands = [input.clone().requires_grad_(backward), *tensors]
        if backward:
            # In the layout of the output: NHWC or, from effkern, that of the input.
            own = grad.permute(0, 3, 1, 2) if function is effkern_norm else grad
            if name == "effkern contiguous":
                own = own.contiguous()
            calls[name] = partial(with_gradients, function, operands, own)
        else:
            calls[name] = partial(function, *operands)
    return calls


def interleaved(calls: Mapping[str, Call], rounds: int, count: int) -> dict[str, float]:
    """For each name the median over the rounds of the fastest of `count` calls, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with no_garbage_collection():
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(block([call], count, probe([call])).seconds[0])
                rest()
    return {name: statistics.median(values) for name, values in times.items()}


def stages(
    description: str | None,
    calls_of: Callable[[int, int, int, bool], dict[str, partial]],
    rounds: int,
    count: int,
) -> Iterator[tuple[str, dict[str, float], float]]:
    """Runs a command with the option --threads: for each pass, batch size and stage what it is, the
    seconds of the contenders that calls_of(batch, channels, size, backward) gives, and those of
    torch in its better layout."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for backward, batch, (channels, size) in itertools.product((False, True), (1, 8), STAGES):
        medians = interleaved(calls_of(batch, channels, size, backward), rounds, count)
        better = min(medians["torch contiguous"], medians["torch channels_last"])
        what = "forward + backward" if backward else "forward"
        yield f"{what} {batch}x{channels}@{size}", medians, better


def main() -> None:
    for what, medians, better in stages(__doc__, _calls, ROUNDS, CALLS):
        cells = [f"{name} {seconds * 1e6:.0f} us" for name, seconds in medians.items()]
        print(f"{what}: {', '.join(cells)}; {better / medians['effkern']:.2f}x", flush=True)


if __name__ == "__main__":
    main()
