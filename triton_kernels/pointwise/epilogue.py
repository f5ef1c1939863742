"""What kernels of matrix products do with finished sums, [pixels, channels] tiles in float32."""

import triton
import triton.language as tl

from ..depthwise_conv2d.activation import SILU, activate


@triton.jit
def activated(x, ACTIVATION: tl.constexpr, HALF: tl.constexpr):
    """activation(x)."""
    if ACTIVATION == SILU:
        # Ten instructions instead of fifteen. Where the power overflows, the quotient is zero.
        return x / (1.0 + tl.exp2(x * -1.4426950408889634))
    else:
        return activate(x, ACTIVATION, HALF)


@triton.jit
def biased(sums, bias, channel, COUNT: tl.constexpr):
    """sums + bias, or the sums where there is none; COUNT channels exist."""
    if bias is None:
        return sums
    else:
        value = tl.load(bias + channel, mask=channel < COUNT, other=0.0)
        return sums + value.to(tl.float32)[None, :]


@triton.jit
def scaled(sums, scale, channel, COUNT: tl.constexpr):
    """scale * sums, or the sums where there is none."""
    if scale is None:
        return sums
    else:
        value = tl.load(scale + channel, mask=channel < COUNT, other=0.0)
        return sums * value.to(tl.float32)[None, :]


@triton.jit
def store(sums, residual, output, pixel, inside, channel, COUNT: tl.constexpr):
    """Adds the residual and rounds once; pixels have COUNT channels in memory."""
    mask = inside[:, None] & (channel < COUNT)[None, :]
    offset = (pixel * COUNT)[:, None] + channel[None, :]
    if residual is not None:
        sums += tl.load(residual + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(output + offset, sums.to(output.dtype.element_ty), mask=mask)
