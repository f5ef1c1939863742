"""Problem and tensors to grid and specialisation of the kernel.

Tensors are on one device, checked, and laid out as the kernel wants them. On CUDA tensors
everything runs on the current stream of their device, and nothing waits for it.
"""

from __future__ import annotations

import triton
from torch import Tensor

from ..depthwise_conv2d.launch import grid_of, launching, pack
from . import configs, kernel

_MOST = 2**31 - 1


def forward(
    name: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    output: Tensor,
    padding: tuple[int, int],
) -> None:
    """Writes `output`.

    Args:
        name: of the function, for messages.
        input, output: (N, C, H, W), (N, C, H', W'), channels_last without gaps.
        weight: (C, 1, k, k), k of configs.KERNELS. bias: (C,) or None, contiguous.
        norm_weight, norm_bias: (C,) or None, float32, contiguous.
        padding: above and on the left, in pixels.

    Raises:
        RuntimeError: more than 2**31 - 1 tiles or rows, or what Triton cannot compile.
    """
    batch, channels, out_height, out_width = output.shape
    config = configs.config(channels, input.element_size())
    row_blocks = triton.cdiv(out_height, config.rows)
    column_blocks = triton.cdiv(out_width, config.columns)
    programs = batch * row_blocks * column_blocks
    pixels = (*input.shape[2:], *output.shape[2:], *padding)
    grid = grid_of(name, (programs, *input.shape[:2], weight.numel()), pixels)
    with launching(name, input, config):
        kernel.depthwise_conv2d_layer_norm_kernel[grid](
            input,
            pack(weight),
            bias,
            norm_weight,
            norm_bias,
            output,
            *input.shape[2:],
            out_height,
            out_width,
            weight.shape[3],
            *padding,
            eps,
            row_blocks,
            column_blocks,
            ALL_CHANNELS=channels,
            KERNEL_H=weight.shape[2],
            # Twice over, for the borders.
            WIDE=2 * max(input.numel(), output.numel()) > _MOST,
            ROWS=config.rows,
            COLUMNS=config.columns,
            CHANNELS=config.channels,
            GROUPS=config.groups,
            num_warps=config.warps,
            maxnreg=config.registers,
        )
