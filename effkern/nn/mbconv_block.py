"""What MBConv and FusedMBConv have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from effkern.registry import backend


class Block(nn.Module):
    _source_class: type[nn.Module]

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"effkern.nn.{name}: wanted a call of {name}.from_module")

    @classmethod
    def from_module(cls, module: nn.Module) -> Any:
        """A block with the parameters, buffers, hooks and training mode of `module`.

        Raises:
            TypeError: `module`, or a submodule of it, has a class or hooks that the block cannot
                stand for.
            ValueError: a configuration that it does not compute: a dilation, two activations.
        """
        from .block_sources import share

        return share(module, cls)

    def _fused(self, input: Tensor, parts: Any) -> Tensor:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        from .block_sources import parts_of
        from .mbconv_arguments import folds
        from .mbconv_calls import known

        result = known(self, input)
        if result is not None:
            return result
        parts = parts_of(self)
        if not folds(self, parts, input):
            return self._source_class.forward(self, input)
        return self._fused(input, parts)

    def reference(self, input: Tensor) -> Tensor:
        """The same computation by the source's forward and torch's convolutions."""
        with backend("torch"):
            return self._source_class.forward(self, input)

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in vars(self).items() if name not in ("_folded", "_calls")}
