"""What the tests of whole blocks have in common: their arguments by name, and their bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .problems import with_layout


def mapped(function: Callable[[Tensor], Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with `function` applied to the tensors, also to those in tuples."""

    def apply(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(apply(v) for v in value)
        return function(value) if isinstance(value, Tensor) else value

    return {name: apply(value) for name, value in arguments.items()}


def tensors_of(arguments: dict[str, Any]) -> list[Tensor]:
    flat: list[Tensor] = []
    mapped(flat.append, arguments)
    return flat


def distance(actual: Tensor, exact: Tensor) -> float:
    """The error in norm, relative to `exact`."""
    return float(((actual.double() - exact).norm() / exact.norm()).detach())


def check_block(
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    arguments: dict[str, Any],
    layout: str,
    stages: int,
    **keywords: Any,
) -> None:
    """The error in norm is at most twice that of torch's operators and a rounding unit; the result
    has their strides, and no argument changes. `stages` is the number of sums on the way."""
    for name in ("input", "residual"):
        if arguments[name] is not None:
            arguments[name] = with_layout(arguments[name], layout)
    dtype = arguments["input"].dtype
    exact = reference(**mapped(Tensor.double, arguments), **keywords)
    by_torch = reference(**arguments, **keywords)
    before = tensors_of(mapped(lambda t: t.detach().clone(), arguments))
    actual = function(**arguments, **keywords)
    for tensor, old in zip(tensors_of(arguments), before, strict=True):
        assert torch.equal(tensor, old)
    assert actual.dtype == dtype and actual.shape == exact.shape
    assert actual.stride() == by_torch.stride()
    bound = 2 * distance(by_torch, exact) + torch.finfo(dtype).eps
    if dtype == torch.float64:
        # Nothing here is more exact: a rounding unit for each of the sums on the way.
        bound = 2 * stages * torch.finfo(dtype).eps
    assert distance(actual, exact) <= bound
