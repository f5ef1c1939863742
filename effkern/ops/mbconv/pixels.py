"""1x1 convolutions as matrix products over views of images, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..depthwise_conv2d import fallback
from ..depthwise_conv2d.arguments import ACTIVATIONS
from ..depthwise_conv2d.cpu_operators import can_run

# Bytes of expanded activations that are in use at a time; at least one image is.
CHUNK_BYTES = 4 << 20

_aten = torch.ops.aten
_IN_PLACE: dict[int, Callable[[Tensor], Tensor]] = {
    ACTIVATIONS["relu"]: torch.relu_,
    ACTIVATIONS["relu6"]: lambda x: _aten.hardtanh_(x, 0, 6),
    ACTIVATIONS["silu"]: _aten.silu_,
    ACTIVATIONS["gelu"]: _aten.gelu_,
    ACTIVATIONS["gelu_tanh"]: lambda x: _aten.gelu_(x, approximate="tanh"),
    ACTIVATIONS["hardswish"]: _aten.hardswish_,
}


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


def matrices(images: Tensor, per_image: bool) -> list[Tensor]:
    """Views of pixels x channels: one of all images (channels_last), or one of each.

    Those of contiguous planes are transposed, which costs a matrix product nothing.
    """
    if per_image:
        return [image.flatten(1).t() for image in images.unbind()]
    return [images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])]


def is_channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)


def linear_into(out: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """out = pixels @ weight.T + bias."""
    if bias is None:
        torch.mm(pixels, weight.t(), out=out)
    else:
        torch.addmm(bias, pixels, weight.t(), out=out)


def activate_(tensor: Tensor, activation: int) -> Tensor:
    """Applies an activation in place."""
    return _IN_PLACE[activation](tensor) if activation else tensor


def pointwise(images: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """A 1x1 convolution and its activation, differentiable, in the layout of `images`."""
    if memory_format(images) == torch.channels_last:
        output = torch.nn.functional.linear(images.permute(0, 2, 3, 1), weight, bias)
        output = output.permute(0, 3, 1, 2)
    else:
        output = torch.conv2d(images, weight[:, :, None, None], bias)
    return fallback.activate(output, activation)


def project_into(
    out: Tensor,
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
) -> None:
    """out = 1x1 convolution of gate * images, + bias + residual; may change `images`."""
    # Gated are the weights of each image or the images, whichever are fewer numbers.
    gate_weight = gate is not None and weight.shape[0] < images.shape[2] * images.shape[3]
    if gate is not None and not gate_weight:
        images.mul_(gate[:, :, None, None])
    present = [t for t in (out, images, residual) if t is not None]
    per_image = gate_weight or not all(is_channels_last(t) for t in present)
    results = matrices(out, per_image)
    added = [None] * len(results) if residual is None else matrices(residual, per_image)
    for i, pixels in enumerate(matrices(images, per_image)):
        own = weight * gate[i] if gate is not None and gate_weight else weight
        result, addend = results[i], added[i]
        if addend is None:
            linear_into(result, pixels, own, bias)
            continue
        # The product is added to what is there: the residual costs no pass of its own.
        if bias is None:
            result.copy_(addend)
        else:
            torch.add(addend, bias, out=result)
        result.addmm_(pixels, own.t())
