"""The block of EfficientNetV2 in one kernel: the expanded channels never leave the chip.

A program owns PIXELS pixels of the output. It computes GROUPS * EXPANDED expanded channels of them
at a time as an implicit matrix product,

    expanded[pixel, e] = sum over k of input[pixel, k] * expand_weight[e, k]
    k = (kernel row * KERNEL_W + kernel column) * CHANNELS + channel,

adds the bias, applies the activation, rounds to the input's dtype, and multiplies the result, as it
is in registers, with its columns of project_weight into the sums of all output channels. Without a
projection the expanded channels are the result.

k runs over taps and channels alike in steps of REDUCTION, so channels that are no power of two cost
no padding per tap. Images are channels_last and dense; weights are [E, kH, kW, C] and [O, E], rows
of k and of expanded channels, as they are in channels_last models: nothing is packed.
"""

import triton
import triton.language as tl

from ..pointwise.epilogue import activated, biased, scaled, store


@triton.jit(
    do_not_specialize=["pixels", "height", "width", "out_height", "out_width", "pad_h", "pad_w"]
)
def fused_mbconv_kernel(
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
    height,
    width,
    out_height,
    out_width,
    pad_h,
    pad_w,
    CHANNELS: tl.constexpr,
    EXPANDED_CHANNELS: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
    THROUGH_L1: tl.constexpr,
    PIXELS: tl.constexpr,
    REDUCTION: tl.constexpr,
    EXPANDED: tl.constexpr,
    GROUPS: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: programs of PIXELS pixels each, counted through images, rows and columns."""
    TERMS: tl.constexpr = KERNEL_H * KERNEL_W * CHANNELS
    DTYPE: tl.constexpr = input.dtype.element_ty
    HALF: tl.constexpr = DTYPE != tl.float32
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels
    row = pixel // out_width
    first_x = pixel % out_width * STRIDE_W - pad_w
    first_y = row % out_height * STRIDE_H - pad_h
    image = row // out_height
    if WIDE:
        image = image.to(tl.int64)
        pixel = pixel.to(tl.int64)
    # Outside the image at its borders, where the mask is.
    origin = ((image * height + first_y) * width + first_x) * CHANNELS
    out = tl.arange(0, OUT)
    result = tl.zeros([PIXELS, OUT], tl.float32)
    for first in range(0, EXPANDED_CHANNELS, GROUPS * EXPANDED):
        sums = ()
        for _ in tl.static_range(GROUPS):
            sums = sums + (tl.zeros([PIXELS, EXPANDED], tl.float32),)
        for step in range(0, TERMS, REDUCTION):
            k = step + tl.arange(0, REDUCTION)
            tap = k // CHANNELS
            dy = tap // KERNEL_W
            dx = tap % KERNEL_W
            y = first_y[:, None] + dy[None, :]
            x = first_x[:, None] + dx[None, :]
            mask = inside[:, None] & (k < TERMS)[None, :]
            mask = mask & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            offset = (dy * width + dx) * CHANNELS + k % CHANNELS
            if THROUGH_L1:
                # Of these, triton copies 8 bytes at a time: 16 would bypass the cache in which the
                # neighbouring taps find most of their pixels.
                offset = tl.max_contiguous(offset, 4)
            tile = tl.load(input + (origin[:, None] + offset[None, :]), mask=mask, other=0.0)
            new = ()
            for group in tl.static_range(GROUPS):
                e = first + group * EXPANDED + tl.arange(0, EXPANDED)
                weight = tl.load(
                    expand_weight + (e[None, :] * TERMS + k[:, None]),
                    mask=(e < EXPANDED_CHANNELS)[None, :] & (k < TERMS)[:, None],
                    other=0.0,
                )
                new = new + (tl.dot(tile, weight, sums[group], input_precision="ieee"),)
            sums = new
        for group in tl.static_range(GROUPS):
            e = first + group * EXPANDED + tl.arange(0, EXPANDED)
            expanded = biased(sums[group], expand_bias, e, EXPANDED_CHANNELS)
            expanded = activated(expanded, ACTIVATION, HALF)
            if project_weight is None:
                store(expanded, residual, output, pixel, inside, e, EXPANDED_CHANNELS)
            else:
                if EXPANDED_CHANNELS % (GROUPS * EXPANDED) != 0:
                    # Channels that do not exist: infinite pixels times zeros.
                    expanded = tl.where((e < EXPANDED_CHANNELS)[None, :], expanded, 0.0)
                weight = tl.load(
                    project_weight + (out[None, :] * EXPANDED_CHANNELS + e[:, None]),
                    mask=(out < OUT_CHANNELS)[None, :] & (e < EXPANDED_CHANNELS)[:, None],
                    other=0.0,
                )
                result = tl.dot(expanded.to(DTYPE), weight, result, input_precision="ieee")
    if project_weight is not None:
        result = biased(result, project_bias, out, OUT_CHANNELS)
        result = scaled(result, scale, out, OUT_CHANNELS)
        if sample_scale is not None:
            factor = tl.load(sample_scale + image, mask=inside, other=0.0)
            result *= factor.to(tl.float32)[:, None]
        store(result, residual, output, pixel, inside, out, OUT_CHANNELS)
