"""Problem and tensors to grid and specialisation of the kernel.

Tensors are on one device, checked, and laid out as the kernel wants them. On CUDA tensors
everything runs on the current stream of their device, and nothing waits for it.
"""

from __future__ import annotations

import triton
from torch import Tensor

from ..depthwise_conv2d.launch import grid_of, launching
from . import configs, kernel

_MOST = 2**31 - 1


def forward(
    name: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    *,
    activation: int = 0,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    input_activation: int = 0,
    scale: Tensor | None = None,
    sample_scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> None:
    """Writes `output`, by the formula at the head of the kernel.

    Args:
        name: of the operator, for messages.
        input, output, residual: (N, C, H, W), (N, O, H, W) twice; channels_last without gaps.
        weight: (O, C). bias, scale: (O,). sample_scale: (N,). All contiguous.
        gate, shift: (N, C) and (C,), float32, contiguous.
        activation, input_activation: their numbers in the operators' schemas; an input_activation
            wants a gate or a shift.

    Raises:
        RuntimeError: more than 2**31 - 1 pixels, or what Triton cannot compile.
    """
    images, channels, height, width = input.shape
    out_channels, pixels = output.shape[1], height * width
    if gate is None and sample_scale is None:
        # No tile ends at the border of an image that is like all others.
        images, pixels = 1, images * pixels
    sizes = (images, pixels, channels, out_channels, input.element_size())
    config = configs.config(*sizes, input_activation)
    image_blocks = triton.cdiv(pixels, config.pixels)
    programs = images * image_blocks * triton.cdiv(out_channels, config.out)
    counts = (programs, images * pixels + config.pixels, weight.numel())
    grid = grid_of(name, counts, (height, width))
    with launching(name, input, config):
        kernel.pointwise_kernel[grid](
            input,
            weight,
            bias,
            gate,
            shift,
            scale,
            sample_scale,
            residual,
            output,
            images,
            pixels,
            image_blocks,
            CHANNELS=channels,
            OUT_CHANNELS=out_channels,
            INPUT_ACTIVATION=input_activation,
            ACTIVATION=activation,
            # Twice over, for the last tile.
            WIDE=2 * max(input.numel(), output.numel()) > _MOST,
            PIXELS=config.pixels,
            REDUCTION=config.reduction,
            OUT=config.out,
            GROUP=config.group,
            num_warps=config.warps,
            num_stages=config.stages,
            maxnreg=config.registers,
        )
