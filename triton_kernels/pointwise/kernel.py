"""A 1x1 convolution with what goes before and after it in a block: a matrix product over pixels.

    source[p, c] = input_activation(gate[n, c] * input[p, c] + shift[c])
    sums[p, o]   = sum over c of source[p, c] * weight[o, c]
    output[p, o] = residual[p, o] + sample_scale[n] * scale[o] * activation(sums[p, o] + bias[o])

for pixel p of image n. A program owns PIXELS pixels of one image and OUT output channels; what is
left out costs nothing. Images are channels_last and dense, the weight is [O, C]. `gate` and `shift`
are float32: triton does not copy less than four bytes ahead of their use.

Programs go down GROUP blocks of pixels before they come to the next channels: those that run at the
same time share pixels and weights in L2.
"""

import triton
import triton.language as tl

from .epilogue import activated, biased, scaled, store


@triton.jit
def _source(tile, gate, shift, channel, exists, ACTIVATION: tl.constexpr, HALF: tl.constexpr):
    """What is multiplied with the weights, of a tile of the input."""
    value = tile.to(tl.float32)
    if gate is not None:
        value *= tl.load(gate + channel, mask=exists, other=0.0)[None, :]
    if shift is not None:
        value += tl.load(shift + channel, mask=exists, other=0.0)[None, :]
    return activated(value, ACTIVATION, HALF).to(tile.dtype)


@triton.jit(do_not_specialize=["images", "pixels", "image_blocks"])
def pointwise_kernel(
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
    CHANNELS: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    INPUT_ACTIVATION: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    REDUCTION: tl.constexpr,
    OUT: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Grid: blocks of pixels x blocks of output channels.

    pixels, image_blocks: of one image; image_blocks blocks hold them.
    """
    OUT_BLOCKS: tl.constexpr = (OUT_CHANNELS + OUT - 1) // OUT
    HALF: tl.constexpr = input.dtype.element_ty != tl.float32
    program = tl.program_id(0)
    first = program // (GROUP * OUT_BLOCKS) * GROUP
    group = tl.minimum(images * image_blocks - first, GROUP)
    block = first + program % (GROUP * OUT_BLOCKS) % group
    out = program % (GROUP * OUT_BLOCKS) // group * OUT + tl.arange(0, OUT)
    image = block // image_blocks
    pixel = block % image_blocks * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels
    pixel += image * pixels
    if WIDE:
        pixel = pixel.to(tl.int64)
    if gate is not None:
        gate += image.to(tl.int64) * CHANNELS

    sums = biased(tl.zeros([PIXELS, OUT], tl.float32), bias, out, OUT_CHANNELS)
    for step in range(0, CHANNELS, REDUCTION):
        channel = step + tl.arange(0, REDUCTION)
        exists = channel < CHANNELS
        tile = tl.load(
            input + ((pixel * CHANNELS)[:, None] + channel[None, :]),
            mask=inside[:, None] & exists[None, :],
            other=0.0,
        )
        if gate is not None or shift is not None:
            tile = _source(tile, gate, shift, channel, exists, INPUT_ACTIVATION, HALF)
        weights = tl.load(
            weight + (out[None, :] * CHANNELS + channel[:, None]),
            mask=(out < OUT_CHANNELS)[None, :] & exists[:, None],
            other=0.0,
        )
        sums = tl.dot(tile, weights, sums, input_precision="ieee")

    sums = scaled(activated(sums, ACTIVATION, HALF), scale, out, OUT_CHANNELS)
    if sample_scale is not None:
        sums *= tl.load(sample_scale + image).to(tl.float32)
    store(sums, residual, output, pixel, inside, out, OUT_CHANNELS)
