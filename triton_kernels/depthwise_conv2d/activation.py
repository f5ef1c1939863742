"""Activations and their derivatives on tiles, equal to torch.nn.functional's, NaN included.

The numbers are those of the operators' schemas (effkern/ops/depthwise_conv2d/arguments.py).
Arithmetic is float32, or float64 for float64 tensors. `HALF` says that the result is rounded to 16
bits: approximations whose error is far below that rounding then save instructions.
"""

import triton
import triton.language as tl

NONE: tl.constexpr = tl.constexpr(0)
RELU: tl.constexpr = tl.constexpr(1)
RELU6: tl.constexpr = tl.constexpr(2)
SILU: tl.constexpr = tl.constexpr(3)
GELU: tl.constexpr = tl.constexpr(4)
GELU_TANH: tl.constexpr = tl.constexpr(5)
HARDSWISH: tl.constexpr = tl.constexpr(6)


@triton.jit
def _sigmoid(x):
    # The exponential never overflows, and NaN goes through.
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _gate(x):
    # sigmoid(x) and sigmoid(-x): 1 - sigmoid(x) would cancel.
    e = tl.exp(-tl.abs(x))
    inverse = 1.0 / (1.0 + e)
    small = e * inverse
    return tl.where(x < 0, small, inverse), tl.where(x < 0, inverse, small)


@triton.jit
def _tanh_gate(x):
    # GELU's 0.5 (1 + tanh(u)) is sigmoid(2 u).
    return _sigmoid(x * (1.5957691216057308 + 0.07135481627260025 * x * x))


@triton.jit
def _normal_cdf(x, HALF: tl.constexpr):
    if HALF:
        # Abramowitz and Stegun 7.1.26, to 0.75e-7 absolute; no cancellation in the lower tail.
        t = 1.0 / (1.0 + 0.23164189 * tl.abs(x))
        p = t * (-0.7265760136 + t * 0.5307027146)
        p = t * (-0.1422483683 + t * (0.7107068706 + p))
        tail = t * (0.1274147960 + p) * tl.exp(-0.5 * x * x)
        return tl.where(x < 0, tail, 1.0 - tail)
    else:
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr, HALF: tl.constexpr):
    """activation(x)."""
    if ACTIVATION == RELU:
        return tl.where(x < 0, 0.0, x)
    elif ACTIVATION == RELU6:
        return tl.where(x < 0, 0.0, tl.where(x > 6.0, 6.0, x))
    elif ACTIVATION == SILU:
        return x * _sigmoid(x)
    elif ACTIVATION == GELU:
        return x * _normal_cdf(x, HALF)
    elif ACTIVATION == GELU_TANH:
        return x * _tanh_gate(x)
    elif ACTIVATION == HARDSWISH:
        y = x + 3.0
        return x * (tl.where(y < 0, 0.0, tl.where(y > 6.0, 6.0, y)) * (1.0 / 6.0))
    else:
        return x


@triton.jit
def differentiate(x, ACTIVATION: tl.constexpr, HALF: tl.constexpr):
    """activation'(x), with torch's choice where there is none."""
    if ACTIVATION == RELU:
        return tl.where(x <= 0, 0.0, 1.0)
    elif ACTIVATION == RELU6:
        return tl.where((x <= 0) | (x >= 6.0), 0.0, 1.0)
    elif ACTIVATION == SILU:
        open, closed = _gate(x)
        return open + x * (open * closed)
    elif ACTIVATION == GELU:
        pdf = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        return _normal_cdf(x, HALF) + x * pdf
    elif ACTIVATION == GELU_TANH:
        open, closed = _gate(x * (1.5957691216057308 + 0.07135481627260025 * x * x))
        slope = 1.5957691216057308 + 0.21406444881780075 * x * x
        return open + x * (open * closed) * slope
    elif ACTIVATION == HARDSWISH:
        return tl.where(x <= -3.0, 0.0, tl.where(x < 3.0, x * (1.0 / 3.0) + 0.5, 1.0))
    else:
        return x * 0.0 + 1.0
