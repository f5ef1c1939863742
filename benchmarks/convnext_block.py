"""convnext_block against torch, interleaved: `python -m benchmarks.convnext_block`.

The stages of ConvNeXt-T, forward and forward + backward, both layouts of torch, both of `save`.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from effkern.functional import convnext_block

from .layer_norm import stages, with_gradients

ROUNDS, CALLS = 5, 2


def _torch(input: Tensor, *tensors: Tensor) -> Tensor:
    weight, bias, norm_weight, norm_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, gamma = (
        tensors
    )
    y = F.conv2d(input, weight, bias, padding=3, groups=weight.shape[0]).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (y.shape[-1],), norm_weight, norm_bias, 1e-6)
    y = F.linear(F.gelu(F.linear(y, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)
    return input + y.permute(0, 3, 1, 2) * gamma[:, None, None]


def _calls(batch: int, channels: int, size: int, backward: bool) -> dict[str, partial]:
    c, hidden = channels, 4 * channels
    shapes = ((c, 1, 7, 7), (c,), (c,), (c,), (hidden, c), (hidden,), (c, hidden), (c,), (c,))
    tensors = [(torch.randn(shape) / 8).requires_grad_(backward) for shape in shapes]
    last = torch.randn(batch, c, size, size).contiguous(memory_format=torch.channels_last)
    functions = {
        "torch contiguous": (_torch, last.contiguous()),
        "torch channels_last": (_torch, last),
        "effkern all": (partial(convnext_block, save="all"), last),
        "effkern minimal": (convnext_block, last),
    }
    calls = {}
    for name, (function, input) in functions.items():
        operands = [input.clone().requires_grad_(backward), *tensors]
        grad = torch.randn_like(last)
        calls[name] = partial(function, *operands)
        if backward:
            calls[name] = partial(with_gradients, function, operands, grad)
    return calls


def main() -> None:
    for what, medians, better in stages(__doc__, _calls, ROUNDS, CALLS):
        cells = [
            f"{name} {seconds * 1e3:.1f} ms ({better / seconds:.2f}x)"
            for name, seconds in medians.items()
        ]
        print(f"{what}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
