"""Forward and backward of a block as one call: the gradients of its input and its parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# The kinds of blocks with a backward pass of their own; in training the others use effkern's
# depthwise convolution inside PyTorch's ordinary graph.
KINDS = ("ConvNeXtBlock",)
# Of the contenders, those that have gradients.
CONTENDERS = ("torch", "torch_channels_last", "effkern", "effkern_channels_last")


def gradients(module: nn.Module, input: Tensor, grad_output: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        return torch.autograd.grad(module(input), [input, *module.parameters()], grad_output)


def call(forward: partial[Any]) -> partial[Any]:
    """Of the call of a module with its input. effkern's blocks keep all activations for the
    backward pass, as PyTorch does."""
    module, input = forward.func, forward.args[0].detach().requires_grad_()
    assert isinstance(module, nn.Module)
    for part in module.modules():
        if hasattr(part, "save"):
            part.save = "all"
    with torch.no_grad():
        grad_output = torch.empty_like(module(input))
    # The same numbers in every layout and dtype.
    drawn = torch.randn(grad_output.shape, generator=torch.Generator().manual_seed(2))
    return partial(gradients, module, input, grad_output.copy_(drawn))
