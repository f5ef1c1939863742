"""Whether a block is what it was when something was kept for it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# What a call depends on besides the tensors; what else an attribute says is fixed when a module is
# made.
_ATTRIBUTES = ("training", "stride", "padding", "eps", "approximate")


class BlockState:
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
