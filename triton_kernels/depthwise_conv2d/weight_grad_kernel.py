"""Weight and bias gradient of depthwise_conv2d: partial sums, then their sum in a fixed order.

    grad_weight[o, i, j] = sum over n, y, x of grad_output[n, o, y, x] * input[n, o // M, ...]

A program owns CHANNELS channels and TAPS_H x TAPS_W taps. It adds up its share (split) of the tiles
of ROWS x COLUMNS pixels; a row of the input is loaded once for all the pairs of row and tap that it
belongs to. No atomics: the partial sums of each split go to a workspace [splits, taps + 1,
channels], and a second kernel adds the splits in ascending order, so that results are the same bit
by bit on every run and device.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def _output_row(i, k, ROWS, STRIDE):
    """The output row that meets the i-th input row with tap row k; -1 if there is none."""
    row, rest = divmod(i - k, STRIDE)
    return row if rest == 0 and 0 <= row < ROWS else -1


@triton.jit(
    do_not_specialize=[
        *("input_n", "input_c", "input_h", "input_w", "grad_n", "grad_c", "grad_h", "grad_w"),
        *("channels", "height", "width", "out_height", "out_width", "kernel_h", "kernel_w"),
        *("pad_h", "pad_w", "row_blocks", "column_blocks", "channel_blocks", "tap_columns"),
        *("tap_blocks", "tiles", "tiles_per_split"),
    ]
)
def weight_grad_kernel(
    input,
    grad,
    partial,
    input_n,
    input_c,
    input_h,
    input_w,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    channels,
    height,
    width,
    out_height,
    out_width,
    kernel_h,
    kernel_w,
    pad_h,
    pad_w,
    row_blocks,
    column_blocks,
    channel_blocks,
    tap_columns,
    tap_blocks,
    tiles,
    tiles_per_split,
    INPUT_UNIT: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    BIAS: tl.constexpr,
    RAGGED: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
):
    """Partial sums of TAPS_H x TAPS_W taps over `tiles_per_split` tiles.

    input, grad: tensors of any strides (elements; UNIT and VECTOR as in kernel.py).
    partial: float32 (float64 for float64), (splits, kernel_h * kernel_w + 1, channels); the last of
    the taps is the bias, written if BIAS.
    channels: of `grad`. ROWS is 1 unless DILATION_H is.
    RAGGED: out_height is no multiple of ROWS.
    """
    ACCUMULATOR: tl.constexpr = partial.dtype.element_ty

    # Programs that read the same pixels are neighbours.
    id = tl.program_id(0)
    tap_block = id % tap_blocks
    id = id // tap_blocks
    channel_block = id % channel_blocks
    split = id // channel_blocks
    tap_y = tap_block // tap_columns * TAPS_H
    tap_x = tap_block % tap_columns * TAPS_W

    if VECTOR > 1:
        channels = channels * VECTOR
    if INPUT_UNIT == "c":
        input_n = input_n * VECTOR
        input_c = 1
        input_h = input_h * VECTOR
        input_w = input_w * VECTOR
    if INPUT_UNIT == "w":
        input_w = 1
    if GRAD_UNIT == "c":
        grad_n = grad_n * VECTOR
        grad_c = 1
        grad_h = grad_h * VECTOR
        grad_w = grad_w * VECTOR
    if GRAD_UNIT == "w":
        grad_w = 1
    channel = channel_block * CHANNELS + tl.arange(0, CHANNELS)
    channel_mask = channel < channels
    if WIDE:
        input_h = input_h.to(tl.int64)
        grad_h = grad_h.to(tl.int64)
        input_w = input_w.to(tl.int64) if INPUT_UNIT != "w" else input_w
        grad_w = grad_w.to(tl.int64) if GRAD_UNIT != "w" else grad_w
        channel = channel.to(tl.int64)
    input_channel = (channel // MULTIPLIER * input_c)[None, :]
    grad_channel = (channel * grad_c)[None, :]

    sums = ()
    for _ in tl.static_range(TAPS_H * TAPS_W):
        sums = sums + (tl.zeros([COLUMNS, CHANNELS], ACCUMULATOR),)
    bias_sum = tl.zeros([COLUMNS, CHANNELS], ACCUMULATOR)
    first = split * tiles_per_split
    for tile in range(first, tl.minimum(first + tiles_per_split, tiles)):
        column = tile % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
        block = tile // column_blocks
        row = block % row_blocks * ROWS
        image = (block // row_blocks).to(tl.int64)
        mask = (column < out_width)[:, None] & channel_mask[None, :]
        pixels = grad + image * grad_n + (column * grad_w)[:, None] + grad_channel
        grads = ()
        for r in tl.static_range(ROWS):
            inside = mask & (row + r < out_height)
            value = tl.load(pixels + (row + r) * grad_h, mask=inside, other=0.0).to(ACCUMULATOR)
            grads = grads + (value,)
            if BIAS:
                bias_sum += value
        source_y = row * STRIDE_H - pad_h + tap_y * DILATION_H
        for j in tl.static_range(TAPS_W):
            x = column * STRIDE_W - pad_w + (tap_x + j) * DILATION_W
            inside_x = (column < out_width) & (x >= 0) & (x < width) & (tap_x + j < kernel_w)
            mask_x = inside_x[:, None] & channel_mask[None, :]
            pixels = input + image * input_n + (x * input_w)[:, None] + input_channel
            for i in tl.static_range((ROWS - 1) * STRIDE_H + TAPS_H):
                y = source_y + i * (DILATION_H if ROWS == 1 else 1)
                inside = mask_x & (y >= 0) & (y < height)
                value = tl.load(pixels + y * input_h, mask=inside, other=0.0).to(ACCUMULATOR)
                new = ()
                for t in tl.static_range(TAPS_H * TAPS_W):
                    if t % TAPS_W == j and _output_row(i, t // TAPS_W, ROWS, STRIDE_H) >= 0:
                        factor = value
                        if RAGGED:
                            # Below the image grad is zero, and zero times infinity is not.
                            below = row + _output_row(i, t // TAPS_W, ROWS, STRIDE_H) >= out_height
                            factor = tl.where(below, 0.0, value)
                        grad_row = grads[_output_row(i, t // TAPS_W, ROWS, STRIDE_H)]
                        new = new + (sums[t] + factor * grad_row,)
                    else:
                        new = new + (sums[t],)
                sums = new
    partial += split.to(tl.int64) * (kernel_h * kernel_w + 1) * channels
    for t in tl.static_range(TAPS_H * TAPS_W):
        y = tap_y + t // TAPS_W
        x = tap_x + t % TAPS_W
        mask = channel_mask & (y < kernel_h) & (x < kernel_w)
        tl.store(partial + (y * kernel_w + x) * channels + channel, tl.sum(sums[t], 0), mask=mask)
    if BIAS:
        # Every block of taps has added it up; one writes it.
        mask = channel_mask & (tap_block == 0)
        total = tl.sum(bias_sum, 0)
        tl.store(partial + kernel_h * kernel_w * channels + channel, total, mask=mask)


@triton.jit(do_not_specialize=["channels", "taps", "count", "splits"])
def weight_grad_reduce_kernel(
    partial,
    grad_weight,
    grad_bias,
    channels,
    taps,
    count,
    splits,
    BLOCK: tl.constexpr,
):
    """grad_weight[c, tap] = sum over splits of partial[split, tap, c], in ascending order.

    count: taps * channels, and `channels` more if there is a grad_bias.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    stride = ((taps + 1) * channels).to(tl.int64)
    total = tl.zeros([BLOCK], partial.dtype.element_ty)
    for split in range(splits):
        total += tl.load(partial + split * stride + i, mask=mask, other=0.0)
    tap = i // channels
    channel = i % channels
    is_weight = mask & (tap < taps)
    if grad_weight is not None:
        value = total.to(grad_weight.dtype.element_ty)
        tl.store(grad_weight + channel * taps + tap, value, mask=is_weight)
    if grad_bias is not None:
        value = total.to(grad_bias.dtype.element_ty)
        tl.store(grad_bias + channel, value, mask=mask & (tap == taps))
