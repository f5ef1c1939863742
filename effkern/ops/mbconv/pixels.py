"""What mbconv and fused_mbconv have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from ..depthwise_conv2d import fallback
from ..depthwise_conv2d.cpu_operators import can_run

# Bytes of expanded activations that are in use at a time; at least one image is.
CHUNK_BYTES = 4 << 20


def infers_on_cpu(tensors: list[Tensor]) -> bool:
    """Whether a call needs no gradient and may write into buffers of its own."""
    return (
        not torch.compiler.is_compiling()
        and can_run(tensors)
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and not any(isinstance(t, torch._subclasses.FakeTensor) for t in tensors)
    )


def dense(images: Tensor) -> Tensor:
    """`images` in the layout that their strides suggest; a copy only if they have gaps."""
    return images.contiguous(memory_format=memory_format(images))


def memory_format(images: Tensor) -> torch.memory_format:
    contiguous = images.is_contiguous()
    if contiguous != is_channels_last(images):
        return torch.contiguous_format if contiguous else torch.channels_last
    # Costs 20 times as much.
    return torch._prims_common.suggest_memory_format(images)


def chunks(batch: int, numbers_per_image: int, dtype: torch.dtype) -> list[slice]:
    """Slices of the images; they depend on the problem alone."""
    step = max(1, CHUNK_BYTES // max(1, numbers_per_image * dtype.itemsize))
    return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]


def is_channels_last(images: Tensor) -> bool:
    try:
        return images.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:
        # Inside torch.vmap nobody can tell.
        return False


def pointwise(images: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """A 1x1 convolution and its activation, differentiable, in the layout of `images`."""
    if memory_format(images) == torch.channels_last:
        output = torch.nn.functional.linear(images.permute(0, 2, 3, 1), weight, bias)
        output = output.permute(0, 3, 1, 2)
    else:
        output = torch.conv2d(images, weight[:, :, None, None], bias)
    return fallback.activate(output, activation)
