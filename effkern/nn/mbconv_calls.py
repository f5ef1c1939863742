"""Calls of a block whose operands are known from an earlier call with an image of the same size.

Finding the parts of a block, folding, and checking every argument takes longer than small images,
and packing the weights of its products a tenth of the time.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from effkern.ops import mbconv
from effkern.ops.mbconv import pixels

from .block_state import BlockState

_MOST_SIZES = 64


class Calls:
    """Operands by size and dtype of the image, for a block as it was when the first was found."""

    def __init__(self, block: nn.Module, op: ModuleType) -> None:
        self._state = BlockState(block)
        self._op: Any = op
        # None for what is not computed from operands.
        self._kept: dict[Any, tuple[Any, bool] | None] = {}

    def run(self, input: Any) -> Tensor | None:
        """The result of a call without gradients that is known, or None."""
        if torch.is_grad_enabled() or not isinstance(input, Tensor):
            return None
        kept = self._kept.get((input.shape[1:], input.dtype))
        if kept is None or not pixels.infers_on_cpu([input]) or not self._state.same():
            return None
        operands, has_residual = kept
        images = pixels.dense(input)
        return self._op.infer(images, operands, images if has_residual else None)

    def find(self, input: Tensor, arguments: tuple[Any, ...]) -> None:
        key = input.shape[1:], input.dtype
        if key in self._kept:
            return
        operands = self._op.operands(input, *arguments)
        if len(self._kept) >= _MOST_SIZES:
            self._kept.clear()
        if isinstance(operands, mbconv.Operands):
            # The same for images of all sizes.
            earlier = next((kept[0] for kept in self._kept.values() if kept), None)
            packed = mbconv.pack(operands) if earlier is None else earlier.packed
            operands = operands._replace(packed=packed)
        self._kept[key] = None if operands is None else (operands, arguments[-1] is not None)

    def same(self) -> bool:
        """Whether the block is what it was."""
        return self._state.same()


def known(block: nn.Module, input: Any) -> Tensor | None:
    """The result of a call, if its operands are kept."""
    calls = None if torch.compiler.is_compiling() else vars(block).get("_calls")
    return None if calls is None else calls.run(input)


def keep(block: nn.Module, op: ModuleType, input: Tensor, arguments: tuple[Any, ...]) -> None:
    """Keeps what calls without gradients and with images like `input` need.

    Args:
        op: effkern.ops.mbconv or effkern.ops.fused_mbconv.
        arguments: of its `operands` after the input; the residual, the last, is `input` or None.
    """
    if torch.is_grad_enabled() or input.dim() != 4 or not pixels.infers_on_cpu([input]):
        return
    calls = vars(block).get("_calls")
    if calls is None or not calls.same():
        calls = vars(block)["_calls"] = Calls(block, op)
    calls.find(input, arguments)
