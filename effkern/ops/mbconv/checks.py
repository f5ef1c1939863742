"""What mbconv and fused_mbconv ask of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..depthwise_conv2d.arguments import Params


def tensors(name: str, required: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
    """Types, devices and dtypes; the first of `required` is the input.

    Raises:
        TypeError: no tensor where one is wanted.
        RuntimeError: an input that is no image, or another device or dtype than the input's.
    """
    for argument, value in {**required, **optional}.items():
        if not isinstance(value, Tensor) and (value is not None or argument in required):
            wanted = "a Tensor" if argument in required else "a Tensor or None"
            raise TypeError(f"{name}: {argument}: wanted {wanted}, got {type(value).__name__}")
    input = next(iter(required.values()))
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"{name}: input: wanted (C, H, W) or (N, C, H, W), got {tuple(input.shape)}"
        )
    mixed = torch.is_autocast_enabled(input.device.type)
    for argument, tensor in {**required, **optional}.items():
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise RuntimeError(
                f"{name}: {argument}: wanted device {input.device} as input is on, "
                f"got {tensor.device}"
            )
        if tensor.dtype != input.dtype and not mixed:
            raise RuntimeError(
                f"{name}: {argument}: wanted {input.dtype} as input is, got {tensor.dtype}"
            )


def shape(name: str, argument: str, tensor: Tensor | None, wanted: tuple[int, ...]) -> None:
    """RuntimeError if there is a tensor and it has another shape."""
    if tensor is not None and tuple(tensor.shape) != wanted:
        raise RuntimeError(f"{name}: {argument}: wanted shape {wanted}, got {tuple(tensor.shape)}")


def matrix(name: str, argument: str, weight: Tensor, columns: int) -> Tensor:
    """The weight of a 1x1 convolution as (rows, columns); RuntimeError if it is none."""
    size = tuple(weight.shape)
    if len(size) not in (2, 4) or size[1] != columns or size[2:] not in ((), (1, 1)):
        raise RuntimeError(
            f"{name}: {argument}: wanted (rows, {columns}) or (rows, {columns}, 1, 1), got {size}"
        )
    return weight.flatten(1) if len(size) == 4 else weight


def output_size(input: Tensor, weight: Tensor, params: Params) -> tuple[int, int]:
    """Height and width of the convolution's result."""
    stride_h, stride_w, top, bottom, left, right = params[:6]
    height = (input.shape[-2] + top + bottom - weight.shape[-2]) // stride_h + 1
    width = (input.shape[-1] + left + right - weight.shape[-1]) // stride_w + 1
    return height, width
