"""The same of torch's matrix products, for the dtypes that the kernels do not have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..depthwise_conv2d.arguments import ACTIVATIONS

_aten = torch.ops.aten
_IN_PLACE: dict[int, Callable[[Tensor], Tensor]] = {
    ACTIVATIONS["relu"]: torch.relu_,
    ACTIVATIONS["relu6"]: lambda x: _aten.hardtanh_(x, 0, 6),
    ACTIVATIONS["silu"]: _aten.silu_,
    ACTIVATIONS["gelu"]: _aten.gelu_,
    ACTIVATIONS["gelu_tanh"]: lambda x: _aten.gelu_(x, approximate="tanh"),
    ACTIVATIONS["hardswish"]: _aten.hardswish_,
}


def activate_(tensor: Tensor, activation: int) -> Tensor:
    """Applies an activation in place."""
    return _IN_PLACE[activation](tensor) if activation else tensor


def pointwise_into(
    out: Tensor,
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    activation: int,
    gate: Tensor | None,
    residual: Tensor | None,
) -> None:
    """See effkern.ops.pointwise; overwrites `images` if there is a gate."""
    if gate is not None:
        images = images.mul_(gate[:, :, None, None])
    product = torch.matmul(images.permute(0, 2, 3, 1), weight.t())
    if scale is not None:
        product *= scale
    if bias is not None:
        product += bias
    activate_(product, activation)
    if residual is not None:
        product += residual.permute(0, 2, 3, 1)
    out.copy_(product.permute(0, 3, 1, 2))
