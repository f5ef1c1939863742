"""MBConv and FusedMBConv, in place of the blocks of timm and torchvision."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from effkern.functional import fused_mbconv
from effkern.ops.mbconv import mbconv_with_norm
from effkern.registry import backend


class _Block(nn.Module):
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

        parts = parts_of(self)
        if not folds(self, parts, input):
            return self._source_class.forward(self, input)
        return self._fused(input, parts)

    def reference(self, input: Tensor) -> Tensor:
        """The same computation by the source's forward and torch's convolutions."""
        with backend("torch"):
            return self._source_class.forward(self, input)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_folded"}


class MBConv(_Block):
    """An inverted residual block: in eval mode :func:`effkern.functional.mbconv`.

    Made by :meth:`from_module` or :func:`effkern.convert`; input and output are (N, C, H, W).
    Submodules, parameters and state_dict keys are those of the source. In eval mode, without
    gradients, BatchNorm is folded into the convolutions (again when one of its tensors changes);
    otherwise it is the source's forward with :class:`effkern.DepthwiseConv2d`.
    """

    def _fused(self, input: Tensor, parts: Any) -> Tensor:
        from .mbconv_arguments import geometry
        from .mbconv_folding import folded
        from .squeeze_excite_sources import se_arguments

        residual = None if parts.shortcut is None else parts.shortcut(input)
        for module in parts.before:
            input = module(input)
        expand, middle, project, norm = folded(self, parts)
        keywords = geometry(parts.middle, input)
        se = se_arguments(parts.se if norm is None else parts.early_se)
        tensors = (*(expand or (None, None)), *middle, se, norm, *project)  # type: ignore[misc]
        return mbconv_with_norm(input, *tensors, **keywords, residual=residual)


class FusedMBConv(_Block):
    """The block with a dense convolution: in eval mode :func:`effkern.functional.fused_mbconv`.

    As :class:`MBConv`.
    """

    def _fused(self, input: Tensor, parts: Any) -> Tensor:
        from .mbconv_arguments import geometry
        from .mbconv_folding import folded

        residual = None if parts.shortcut is None else parts.shortcut(input)
        _, middle, project, _ = folded(self, parts)
        keywords = geometry(parts.middle, input)
        tensors = (*middle, *(project or (None, None)))  # type: ignore[misc]
        return fused_mbconv(input, *tensors, **keywords, residual=residual)
