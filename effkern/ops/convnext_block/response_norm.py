"""Global response normalisation of ConvNeXt V2."""

from __future__ import annotations

from torch import Tensor

# timm's; the paper's code has the same.
_EPS = 1e-6


def relative(norms: Tensor) -> Tensor:
    """The norms of an image's channels, which are the last axis, over their mean."""
    return norms / (norms.mean(dim=-1, keepdim=True) + _EPS)
