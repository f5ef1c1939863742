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
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
    residual: Tensor | None,
    output: Tensor,
    geometry: tuple[int, ...],
    activation: int,
    scale: Tensor | None = None,
    sample_scale: Tensor | None = None,
) -> None:
    """Writes `output`.

    Args:
        name: of the function, for messages.
        input, residual, output: (N, C, H, W), (N, O, H', W') twice; channels_last without gaps.
        expand_weight: (E, C, kH, kW), channels_last without gaps. expand_bias: (E,) or None.
        project_weight: (O, E), contiguous, or None for O = E. project_bias: (O,) or None.
        geometry: stride_h, stride_w, pad_top, pad_left, in pixels.
        activation: its number in the operators' schemas.
        scale, sample_scale: what the projection is multiplied by before the residual is added, (O,)
            and (N,), contiguous, or None.

    Raises:
        RuntimeError: more than 2**31 - 1 pixels, or what Triton cannot compile.
    """
    stride_h, stride_w, top, left = geometry
    expanded, channels, kernel_h, kernel_w = expand_weight.shape
    batch, out_channels, out_height, out_width = output.shape
    out = None if project_weight is None else out_channels
    config = configs.config(expanded, out, input.element_size())
    pixels = batch * out_height * out_width
    counts = (triton.cdiv(pixels, config.pixels), pixels + config.pixels)
    grid = grid_of(name, counts, (*input.shape[2:], out_height, out_width, top, left))
    with launching(name, input, config):
        kernel.fused_mbconv_kernel[grid](
            input,
            expand_weight,
            expand_bias,
            project_weight,
            project_bias,
            scale,
            sample_scale,
            residual,
            output,
            pixels,
            *input.shape[2:],
            out_height,
            out_width,
            top,
            left,
            CHANNELS=channels,
            EXPANDED_CHANNELS=expanded,
            OUT_CHANNELS=out_channels,
            KERNEL_H=kernel_h,
            KERNEL_W=kernel_w,
            STRIDE_H=stride_h,
            STRIDE_W=stride_w,
            ACTIVATION=activation,
            # Twice over, for the borders.
            WIDE=2 * max(input.numel(), output.numel()) > _MOST,
            THROUGH_L1=configs.goes_through_l1(channels, input.element_size()),
            PIXELS=config.pixels,
            REDUCTION=config.reduction,
            EXPANDED=config.expanded,
            GROUPS=config.groups,
            OUT=config.out,
            num_warps=config.warps,
            num_stages=config.stages,
        )
