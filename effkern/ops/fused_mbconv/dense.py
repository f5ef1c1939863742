"""What computes the dense convolution of fused_mbconv on CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..depthwise_conv2d.arguments import Params

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Below, the transforms of Winograd cost more than they save.
_WINOGRAD_CHANNELS = 8
# Below, copying pixels, or packing weights, takes as long as multiplying them.
_DIRECT_CHANNELS, _DIRECT_PIXELS = 4, 32


class DenseKernel(NamedTuple):
    """What computes the dense convolution on CPU, and why."""

    name: str
    reason: str

    @property
    def is_own(self) -> bool:
        return self is _WINOGRAD or self is _DIRECT


_WINOGRAD = DenseKernel(
    "winograd", "Winograd's F(2x2, 3x3), activation, projection and residual of a block of pixels "
    "in the cache",
)  # fmt: skip
_DIRECT = DenseKernel(
    "direct", "one product of the pixels that each output meets, activation, projection and "
    "residual of a block of pixels in the cache",
)  # fmt: skip
_LIBRARY = "aten::convolution, pointwise"


def _multiplies_bfloat16() -> bool:
    try:
        from ... import _C
    except ImportError:
        return False
    return _C.cpu_isa() == "avx512_bf16"


def dense_kernel(
    weight: Tensor, params: Params, pixel_count: int, dtype: torch.dtype
) -> DenseKernel:
    """For `pixel_count` pixels of output, in all images."""
    channels, *kernel = weight.shape[1:]
    if dtype not in _DTYPES:
        return DenseKernel(_LIBRARY, "no kernel of effkern's has this dtype")
    if (*kernel, *params[:2]) == (3, 3, 1, 1) and channels >= _WINOGRAD_CHANNELS:
        return _WINOGRAD
    if channels < _DIRECT_CHANNELS or pixel_count < _DIRECT_PIXELS:
        return DenseKernel(
            _LIBRARY,
            f"below {_DIRECT_CHANNELS} channels or {_DIRECT_PIXELS} pixels torch's is faster",
        )
    if dtype == torch.bfloat16 and _multiplies_bfloat16():
        return DenseKernel(_LIBRARY, "torch's multiplies bfloat16 as it is; effkern's in float32")
    return _DIRECT
