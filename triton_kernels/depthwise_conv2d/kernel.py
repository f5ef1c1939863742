"""The stencil: forward, activation backward and input gradient of depthwise_conv2d.

Output pixel q of residue r and tap j of a stencil read source pixel

    q * STEP + base(r) + j * SHIFT

forward         one residue     STEP = stride, SHIFT = dilation, base = -padding
input gradient  stride residues STEP = 1, SHIFT = -dilation / gcd(dilation, stride),
                                base(r) = (r + padding - first(r) * dilation) / stride

In the input gradient the pixels of `grad_input` with the same residue modulo the stride form one
lattice, on which the gradient is a dense stencil of every TAPS_APART-th tap from first(r): no
modulo and no multiplication by inserted zeros in the loops.

A program computes ROWS x COLUMNS pixels of CHANNELS channels. It walks over the kernel's columns;
a source row is loaded once for all output rows that it meets (ROWS + TAPS - 1 loads for ROWS * TAPS
products). Sums are float32 (float64 for float64).

UNIT names the axis of a tensor whose stride is 1: "c" (channels_last), "w" (contiguous) or "".
In channels_last tensors pixel strides and channel counts are passed divided by VECTOR, because
triton proves an access aligned only if it sees the factor.
"""

import triton
import triton.language as tl

from .activation import activate, differentiate


@triton.jit
def pack_weight_kernel(
    weight,
    packed,
    channels,
    kernel_w,
    count,
    stride_c,
    stride_h,
    stride_w,
    BLOCK: tl.constexpr,
):
    """packed[kh, kw, c] = weight[c, 0, kh, kw], widened: what vectors can be loaded from."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    tap = i // channels
    offset = (i % channels) * stride_c + (tap // kernel_w) * stride_h + (tap % kernel_w) * stride_w
    value = tl.load(weight + offset, mask=mask, other=0.0)
    tl.store(packed + i, value.to(packed.dtype.element_ty), mask=mask)


@triton.jit
def first_tap(residue, pad, STRIDE: tl.constexpr, TAPS_APART: tl.constexpr, INVERSE: tl.constexpr):
    """The first tap with (residue + pad - tap * dilation) % STRIDE == 0; TAPS_APART if none.

    With g = gcd(dilation, STRIDE): TAPS_APART = STRIDE / g, INVERSE is that of dilation / g modulo
    TAPS_APART.
    """
    COMMON: tl.constexpr = STRIDE // TAPS_APART
    offset = (residue + pad).to(tl.int64)
    tap = (offset // COMMON) % TAPS_APART * INVERSE % TAPS_APART
    return tl.where(offset % COMMON == 0, tap, TAPS_APART).to(tl.int32)


@triton.jit
def weight_tile(pointer, columns, channel, mask, PACKED: tl.constexpr, ACCUMULATOR: tl.constexpr):
    """One value per channel, in a layout that a [COLUMNS, CHANNELS] tile can be multiplied with.

    A [CHANNELS] vector would go through shared memory, with a barrier for each. Where a thread
    holds one vector of channels, the same addresses in every row of the tile cost nothing.
    """
    if PACKED:
        tile = tl.load(
            pointer + (columns * 0)[:, None] + channel[None, :], mask=mask[None, :], other=0.0
        )
    else:
        tile = tl.load(pointer + channel, mask=mask, other=0.0)[None, :]
    return tile.to(ACCUMULATOR)


@triton.constexpr_function
def _tap(i, r, ROWS, TAPS, STEP, SHIFT):
    """The tap with which output row r meets the i-th source row; -1 if it does not."""
    tap = i if ROWS == 1 else i - r * STEP if SHIFT > 0 else r + TAPS - 1 - i
    return tap if 0 <= tap < TAPS else -1


@triton.jit
def _kernel_rows(
    sums,
    source,
    mask,
    row,
    height,
    source_h,
    weight,
    weight_h,
    taps_left,
    columns,
    weight_channel,
    channel_mask,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    STEP: tl.constexpr,
    SHIFT: tl.constexpr,
    PACKED: tl.constexpr,
    UNEVEN: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """Adds TAPS taps of one column of the kernel to the sums of ROWS output rows."""
    weights = ()
    for j in tl.static_range(TAPS):
        # A tap that this residue does not have lies behind the kernel's end.
        pointer = weight + j * weight_h
        exists = channel_mask
        if UNEVEN:
            exists = channel_mask & (j < taps_left)
        tile = weight_tile(pointer, columns, weight_channel, exists, PACKED, ACCUMULATOR)
        weights = weights + (tile,)
    start = row
    if ROWS > 1 and SHIFT < 0:
        start = row - (TAPS - 1)
    for i in tl.static_range((ROWS - 1) * STEP + TAPS):
        y = start + i * (SHIFT if ROWS == 1 else 1)
        inside = mask & (y >= 0) & (y < height)
        value = tl.load(source + y * source_h, mask=inside, other=0.0).to(ACCUMULATOR)
        new = ()
        for r in tl.static_range(ROWS):
            if _tap(i, r, ROWS, TAPS, STEP, SHIFT) >= 0:
                factor = value
                if UNEVEN and _tap(i, r, ROWS, TAPS, STEP, SHIFT) == TAPS - 1:
                    # Zero times infinity is not zero.
                    factor = tl.where(TAPS - 1 < taps_left, value, 0.0)
                new = new + (sums[r] + factor * weights[_tap(i, r, ROWS, TAPS, STEP, SHIFT)],)
            else:
                new = new + (sums[r],)
        sums = new
    return sums


@triton.jit(
    do_not_specialize=[
        *("source_n", "source_c", "source_h", "source_w", "output_n", "output_c", "output_h"),
        *("output_w", "grad_n", "grad_c", "grad_h", "grad_w", "weight_c", "weight_h", "weight_w"),
        *("channels", "height", "width", "out_height", "out_width", "kernel_w"),
        *("pad_h", "pad_w", "row_blocks", "column_blocks", "channel_blocks"),
    ]
)
def stencil_kernel(
    source,
    weight,
    bias,
    grad,
    output,
    source_n,
    source_c,
    source_h,
    source_w,
    output_n,
    output_c,
    output_h,
    output_w,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    weight_c,
    weight_h,
    weight_w,
    bias_c,
    channels,
    height,
    width,
    out_height,
    out_width,
    kernel_w,
    pad_h,
    pad_w,
    row_blocks,
    column_blocks,
    channel_blocks,
    SOURCE_UNIT: tl.constexpr,
    OUTPUT_UNIT: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    VECTOR: tl.constexpr,
    PACKED: tl.constexpr,
    WIDE: tl.constexpr,
    GRAD_INPUT: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    TAPS_APART_H: tl.constexpr,
    TAPS_APART_W: tl.constexpr,
    INVERSE_H: tl.constexpr,
    INVERSE_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """One [ROWS, COLUMNS, CHANNELS] tile of the output.

    source, output, grad: tensors of any strides (elements; see UNIT and VECTOR above).
    weight: (channels, kernel_h, kernel_w) by strides, or packed by pack_weight_kernel.
    bias: (channels,) or None. grad: None, or grad_output, which the derivative of the activation is
    multiplied by (activation backward).
    channels: of the output; height, width: of the source.
    WIDE: offsets inside one image need 64 bits. TAPS: rows of the kernel that are unrolled.
    """
    ACCUMULATOR: tl.constexpr = tl.float64 if source.dtype.element_ty == tl.float64 else tl.float32
    HALF: tl.constexpr = output.dtype.element_ty.primitive_bitwidth == 16
    LATTICE_H: tl.constexpr = STRIDE_H if GRAD_INPUT else 1
    LATTICE_W: tl.constexpr = STRIDE_W if GRAD_INPUT else 1
    STEP_H: tl.constexpr = 1 if GRAD_INPUT else STRIDE_H
    SHIFT_H: tl.constexpr = -(DILATION_H * TAPS_APART_H // STRIDE_H) if GRAD_INPUT else DILATION_H
    SHIFT_W: tl.constexpr = -(DILATION_W * TAPS_APART_W // STRIDE_W) if GRAD_INPUT else DILATION_W

    # Neighbouring programs share halos: channels, then residues, columns, rows, images.
    id = tl.program_id(0)
    channel_block = id % channel_blocks
    id = id // channel_blocks
    residue_w = id % LATTICE_W
    id = id // LATTICE_W
    residue_h = id % LATTICE_H
    id = id // LATTICE_H
    column_block = id % column_blocks
    id = id // column_blocks
    row_block = id % row_blocks
    image = (id // row_blocks).to(tl.int64)

    if VECTOR > 1:
        channels = channels * VECTOR
    if SOURCE_UNIT == "c":
        source_n = source_n * VECTOR
        source_c = 1
        source_h = source_h * VECTOR
        source_w = source_w * VECTOR
    if SOURCE_UNIT == "w":
        source_w = 1
    if OUTPUT_UNIT == "c":
        output_n = output_n * VECTOR
        output_c = 1
        output_h = output_h * VECTOR
        output_w = output_w * VECTOR
    if OUTPUT_UNIT == "w":
        output_w = 1
    if grad is not None:
        if GRAD_UNIT == "c":
            grad_n = grad_n * VECTOR
            grad_c = 1
            grad_h = grad_h * VECTOR
            grad_w = grad_w * VECTOR
        if GRAD_UNIT == "w":
            grad_w = 1
    if PACKED:
        weight_c = 1
        weight_w = channels if not GRAD_INPUT else channels * MULTIPLIER
        weight_h = weight_w * kernel_w

    channel = channel_block * CHANNELS + tl.arange(0, CHANNELS)
    channel_mask = channel < channels
    first_row = row_block * ROWS
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    out_x = column * LATTICE_W + residue_w
    column_mask = out_x < out_width

    if GRAD_INPUT:
        first_h = first_tap(residue_h, pad_h, STRIDE_H, TAPS_APART_H, INVERSE_H)
        first_w = first_tap(residue_w, pad_w, STRIDE_W, TAPS_APART_W, INVERSE_W)
        row = first_row + (residue_h + pad_h - first_h * DILATION_H) // STRIDE_H
        source_x = column + (residue_w + pad_w - first_w * DILATION_W) // STRIDE_W
        taps_h = (KERNEL_H - first_h + TAPS_APART_H - 1) // TAPS_APART_H
        taps_w = (kernel_w - first_w + TAPS_APART_W - 1) // TAPS_APART_W
        if TAPS_APART_H < STRIDE_H or TAPS_APART_W < STRIDE_W:
            # Some pixels are met by no tap: their gradient is zero.
            none = (first_h == TAPS_APART_H) | (first_w == TAPS_APART_W)
            taps_w = tl.where(none, 0, taps_w)
        rounds = taps_w * MULTIPLIER
    else:
        first_h = 0
        first_w = 0
        row = first_row * STRIDE_H - pad_h
        source_x = column * STRIDE_W - pad_w
        taps_h = KERNEL_H
        rounds = kernel_w

    if WIDE:
        source_h = source_h.to(tl.int64)
        output_h = output_h.to(tl.int64)
        if grad is not None:
            grad_h = grad_h.to(tl.int64)
        channel = channel.to(tl.int64)
        source_x = source_x.to(tl.int64)
        out_x = out_x.to(tl.int64)
        weight_h = weight_h.to(tl.int64)
    source += image * source_n
    output += image * output_n

    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros([COLUMNS, CHANNELS], ACCUMULATOR),)
    ALL_TAPS: tl.constexpr = (KERNEL_H + TAPS_APART_H - 1) // TAPS_APART_H
    REST: tl.constexpr = ALL_TAPS % TAPS
    UNEVEN: tl.constexpr = LATTICE_H > 1
    for i in range(rounds):
        if GRAD_INPUT:
            t = i // MULTIPLIER
            source_channel = channel * MULTIPLIER + i % MULTIPLIER
            weight_channel = source_channel
        else:
            t = i
            source_channel = channel // MULTIPLIER
            weight_channel = channel
        x = source_x + t * SHIFT_W
        mask = (column_mask & (x >= 0) & (x < width))[:, None] & channel_mask[None, :]
        pixels = source + (x * source_w)[:, None] + (source_channel * source_c)[None, :]
        kernel_column = weight + (first_w + t * TAPS_APART_W) * weight_w + first_h * weight_h
        weight_offset = weight_channel * weight_c
        for chunk in range(ALL_TAPS // TAPS):
            sums = _kernel_rows(
                sums,
                pixels,
                mask,
                row + chunk * (TAPS * SHIFT_H),
                height,
                source_h,
                kernel_column + chunk * (TAPS * TAPS_APART_H) * weight_h,
                TAPS_APART_H * weight_h,
                taps_h - chunk * TAPS,
                column,
                weight_offset,
                channel_mask,
                ROWS,
                TAPS,
                STEP_H,
                SHIFT_H,
                PACKED,
                UNEVEN,
                ACCUMULATOR,
            )
        if REST > 0:
            sums = _kernel_rows(
                sums,
                pixels,
                mask,
                row + (ALL_TAPS - REST) * SHIFT_H,
                height,
                source_h,
                kernel_column + (ALL_TAPS - REST) * TAPS_APART_H * weight_h,
                TAPS_APART_H * weight_h,
                taps_h - (ALL_TAPS - REST),
                column,
                weight_offset,
                channel_mask,
                ROWS,
                REST,
                STEP_H,
                SHIFT_H,
                PACKED,
                UNEVEN,
                ACCUMULATOR,
            )

    offset = 0.0
    if bias is not None:
        offset = weight_tile(bias, column, channel * bias_c, channel_mask, PACKED, ACCUMULATOR)
    mask = column_mask[:, None] & channel_mask[None, :]
    if grad is not None:
        grad_tile = grad + image * grad_n
        grad_tile = grad_tile + (out_x * grad_w)[:, None] + (channel * grad_c)[None, :]
    tile = output + (out_x * output_w)[:, None] + (channel * output_c)[None, :]
    for r in tl.static_range(ROWS):
        out_y = (first_row + r) * LATTICE_H + residue_h
        inside = mask & (out_y < out_height)
        value = sums[r] + offset
        if grad is None:
            value = activate(value, ACTIVATION, HALF)
        else:
            slope = differentiate(value, ACTIVATION, HALF)
            value = (
                tl.load(grad_tile + out_y * grad_h, mask=inside, other=0.0).to(ACCUMULATOR) * slope
            )
        tl.store(tile + out_y * output_h, value.to(output.dtype.element_ty), mask=inside)
