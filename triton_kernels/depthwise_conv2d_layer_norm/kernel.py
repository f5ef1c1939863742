"""Depthwise convolution, bias and LayerNorm over the channels: one read, one write.

A program owns ROWS x COLUMNS pixels and all their channels, as GROUPS tiles of CHANNELS for each
row, in registers. The convolution is that of depthwise_conv2d's stencil; mean and variance are
taken of the finished sums, the variance of their differences from the mean. Images are
channels_last and dense; weights are packed to [kH, kW, C] in float32.
"""

import triton
import triton.language as tl

from ..depthwise_conv2d.kernel import _kernel_rows, weight_tile


@triton.jit(
    do_not_specialize=[
        *("height", "width", "out_height", "out_width", "kernel_w", "pad_h", "pad_w", "eps"),
        *("row_blocks", "column_blocks"),
    ]
)
def depthwise_conv2d_layer_norm_kernel(
    input,
    weight,
    bias,
    norm_weight,
    norm_bias,
    output,
    height,
    width,
    out_height,
    out_width,
    kernel_w,
    pad_h,
    pad_w,
    eps,
    row_blocks,
    column_blocks,
    ALL_CHANNELS: tl.constexpr,
    KERNEL_H: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Grid: images x row blocks x column blocks."""
    program = tl.program_id(0)
    column = program % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    first_row = program // column_blocks % row_blocks * ROWS
    image = program // column_blocks // row_blocks
    row_stride = width * ALL_CHANNELS
    if WIDE:
        image = image.to(tl.int64)
        row_stride = row_stride.to(tl.int64)
    source = input + image * height * row_stride
    column_mask = column < out_width

    sums = ()
    for group in tl.static_range(GROUPS):
        channel = group * CHANNELS + tl.arange(0, CHANNELS)
        channel_mask = channel < ALL_CHANNELS
        own = ()
        for _ in tl.static_range(ROWS):
            start = tl.zeros([COLUMNS, CHANNELS], tl.float32)
            if bias is not None:
                start += weight_tile(bias, column, channel, channel_mask, True, tl.float32)
            own = own + (start,)
        for i in range(kernel_w):
            x = column + i - pad_w
            own = _kernel_rows(
                own,
                source + (x * ALL_CHANNELS)[:, None] + channel[None, :],
                (column_mask & (x >= 0) & (x < width))[:, None] & channel_mask[None, :],
                first_row - pad_h,
                height,
                row_stride,
                weight + i * ALL_CHANNELS,
                kernel_w * ALL_CHANNELS,
                KERNEL_H,
                column,
                channel,
                channel_mask,
                ROWS,
                KERNEL_H,
                1,
                1,
                True,
                False,
                tl.float32,
            )
        sums = sums + own

    means = ()
    scales = ()
    for r in tl.static_range(ROWS):
        total = sums[r]
        for group in tl.static_range(1, GROUPS):
            total += sums[group * ROWS + r]
        mean = tl.div_rn(tl.sum(total, 1), 1.0 * ALL_CHANNELS)
        squares = tl.zeros([COLUMNS, CHANNELS], tl.float32)
        for group in tl.static_range(GROUPS):
            # Lanes beyond the channels hold zeros, not what is left of them.
            mask = group * CHANNELS + tl.arange(0, CHANNELS) < ALL_CHANNELS
            difference = tl.where(mask[None, :], sums[group * ROWS + r] - mean[:, None], 0.0)
            squares += difference * difference
        means = means + (mean,)
        scales = scales + (tl.rsqrt(tl.sum(squares, 1) / ALL_CHANNELS + eps),)

    for group in tl.static_range(GROUPS):
        channel = group * CHANNELS + tl.arange(0, CHANNELS)
        channel_mask = channel < ALL_CHANNELS
        for r in tl.static_range(ROWS):
            y = first_row + r
            value = (sums[group * ROWS + r] - means[r][:, None]) * scales[r][:, None]
            if norm_weight is not None:
                value *= weight_tile(norm_weight, column, channel, channel_mask, True, tl.float32)
            if norm_bias is not None:
                value += weight_tile(norm_bias, column, channel, channel_mask, True, tl.float32)
            pixel = (image * out_height + y) * out_width + column
            tl.store(
                output + (pixel * ALL_CHANNELS)[:, None] + channel[None, :],
                value.to(output.dtype.element_ty),
                mask=(column_mask & (y < out_height))[:, None] & channel_mask[None, :],
            )
