"""MBConv and FusedMBConv, in place of the blocks of timm and torchvision."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from effkern.ops import fused_mbconv, mbconv

from .mbconv_block import Block


class MBConv(Block):
    """An inverted residual block: in eval mode :func:`effkern.functional.mbconv`.

    Made by :meth:`from_module` or :func:`effkern.convert`; input and output are (N, C, H, W).
    Submodules, parameters and state_dict keys are those of the source. In eval mode, without
    gradients, BatchNorm is folded into the convolutions (again when one of its tensors changes);
    otherwise it is the source's forward with :class:`effkern.DepthwiseConv2d`.
    """

    def _fused(self, input: Tensor, parts: Any) -> Tensor:
        from .mbconv_arguments import geometry
        from .mbconv_calls import keep
        from .mbconv_folding import folded
        from .squeeze_excite_sources import se_arguments

        image = input
        residual = None if parts.shortcut is None else parts.shortcut(input)
        for module in parts.before:
            input = module(input)
        expand, middle, project, norm = folded(self, parts)
        keywords = geometry(parts.middle, input)
        se = se_arguments(parts.se if norm is None else parts.early_se)
        tensors = (*(expand or (None, None)), *middle, se, norm, *project)  # type: ignore[misc]
        if image is input and (residual is None or residual is input):
            keep(self, mbconv, input, (*tensors, *keywords.values(), residual))
        return mbconv.mbconv_with_norm(input, *tensors, **keywords, residual=residual)


class FusedMBConv(Block):
    """The block with a dense convolution: in eval mode :func:`effkern.functional.fused_mbconv`.

    As :class:`MBConv`.
    """

    def _fused(self, input: Tensor, parts: Any) -> Tensor:
        from .mbconv_arguments import geometry
        from .mbconv_calls import keep
        from .mbconv_folding import folded

        residual = None if parts.shortcut is None else parts.shortcut(input)
        _, middle, project, _ = folded(self, parts)
        keywords = geometry(parts.middle, input)
        tensors = (*middle, *(project or (None, None)))  # type: ignore[misc]
        if residual is None or residual is input:
            keep(self, fused_mbconv, input, (*tensors, *keywords.values(), residual))
        return fused_mbconv.fused_mbconv(input, *tensors, **keywords, residual=residual)
