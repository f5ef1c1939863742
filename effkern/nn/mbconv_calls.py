"""Calls of MBConv whose operands are known from an earlier call with an image of the same size.

Finding the parts of a block, folding, and checking every argument takes longer than small images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effkern.ops import mbconv
from effkern.ops.mbconv import pixels

_MOST_SIZES = 64
# What a call depends on besides the tensors; what else an attribute says is fixed when a module is
# made.
_ATTRIBUTES = ("training", "stride", "padding", "eps", "approximate")


class _State:
    """Whether a block still consists of the same modules, tensors and values in them."""

    def __init__(self, block: nn.Module) -> None:
        self._values: list[tuple[dict[str, Any], str, Any]] = []
        self._versions: list[tuple[Tensor, int]] = []
        for module in block.modules():
            values = vars(module)
            for name in _ATTRIBUTES:
                if name in values:
                    self._values.append((values, name, values[name]))
            for kind in ("_modules", "_parameters", "_buffers"):
                self._values += ((values[kind], name, x) for name, x in values[kind].items())
            for tensor in (*values["_parameters"].values(), *values["_buffers"].values()):
                if tensor is not None and not tensor.is_inference():
                    self._versions.append((tensor, tensor._version))

    def same(self) -> bool:
        for values, name, value in self._values:
            if values.get(name) is not value:
                return False
        for tensor, version in self._versions:
            if tensor._version != version:
                return False
        return True


class Calls:
    """Operands by size and dtype of the image, for a block as it was when the first was found."""

    def __init__(self, block: nn.Module) -> None:
        self._state = _State(block)
        self._kept: dict[Any, tuple[mbconv.Operands, bool]] = {}

    def run(self, input: Any) -> Tensor | None:
        """The result of a call without gradients that is known, or None."""
        if torch.is_grad_enabled() or not isinstance(input, Tensor):
            return None
        kept = self._kept.get((input.shape[1:], input.dtype))
        if kept is None or not pixels.infers_on_cpu([input]) or not self._state.same():
            return None
        operands, has_residual = kept
        images = pixels.dense(input)
        return mbconv.infer(images, operands, images if has_residual else None)

    def keep(self, input: Tensor, operands: mbconv.Operands, has_residual: bool) -> None:
        if len(self._kept) >= _MOST_SIZES:
            self._kept.clear()
        self._kept[(input.shape[1:], input.dtype)] = operands, has_residual

    def same(self) -> bool:
        """Whether the block is what it was."""
        return self._state.same()


def keep(block: nn.Module, input: Tensor, arguments: tuple[Any, ...]) -> None:
    """Keeps what calls without gradients and with images like `input` need.

    Args:
        arguments: of mbconv.operands after the input; the residual, the last, is `input` or None.
    """
    if torch.is_grad_enabled() or input.dim() != 4 or not pixels.infers_on_cpu([input]):
        return
    operands = mbconv.operands(input, *arguments)
    if operands is None:
        return
    calls = vars(block).get("_calls")
    if calls is None or not calls.same():
        calls = vars(block)["_calls"] = Calls(block)
    calls.keep(input, operands, arguments[-1] is not None)
