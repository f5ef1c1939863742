"""Depthwise convolution in numpy's longdouble: the reference for float64.

Where longdouble is wider than float64 (x86-64: 64 bits of mantissa, aarch64: 113) float64 results
can be measured as all others are; it shares no code with PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from .problems import DepthwiseConv2dCase


def widened(tensor: Tensor) -> np.ndarray:
    """The values of `tensor` in longdouble."""
    return tensor.detach().cpu().double().numpy().astype(np.longdouble)


def _taps(case: DepthwiseConv2dCase, padded: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each kernel tap (i, j) the view of the padded input that meets it, one per output."""
    _, _, out_h, out_w = case.output_shape
    (stride_h, stride_w), (dilation_h, dilation_w) = case.stride, case.dilation
    for i in range(case.kernel[0]):
        for j in range(case.kernel[1]):
            top, left = i * dilation_h, j * dilation_w
            rows = slice(top, top + stride_h * (out_h - 1) + 1, stride_h)
            cols = slice(left, left + stride_w * (out_w - 1) + 1, stride_w)
            yield i, j, padded[:, :, rows, cols]


def _padded(case: DepthwiseConv2dCase, input: np.ndarray) -> np.ndarray:
    top, bottom, left, right = case.borders
    return np.pad(input, ((0, 0), (0, 0), (top, bottom), (left, right)))


def forward(
    case: DepthwiseConv2dCase, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W), (C * multiplier, 1, kernel_h, kernel_w), (C * multiplier,) -> output."""
    output = np.zeros(case.output_shape, input.dtype)
    for i, j, pixels in _taps(case, _padded(case, input)):
        output += np.repeat(pixels, case.multiplier, axis=1) * weight[:, 0, i, j, None, None]
    return output if bias is None else output + bias[:, None, None]


def backward(
    case: DepthwiseConv2dCase, grad_output: np.ndarray, input: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of input, weight and bias."""
    top, _, left, _ = case.borders
    padded = _padded(case, input)
    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
    grouped = (grad_output.shape[0], case.channels, case.multiplier, *grad_output.shape[2:])
    taps = zip(_taps(case, padded), _taps(case, grad_padded), strict=True)
    for (i, j, pixels), (_, _, grad_pixels) in taps:
        tap = weight[:, 0, i, j, None, None]
        grad_pixels += (grad_output * tap).reshape(grouped).sum(axis=2)
        products = grad_output * np.repeat(pixels, case.multiplier, axis=1)
        grad_weight[:, 0, i, j] = products.sum(axis=(0, 2, 3))
    grad_input = grad_padded[:, :, top : top + case.height, left : left + case.width]
    return grad_input, grad_weight, grad_output.sum(axis=(0, 2, 3))


_ONE = np.longdouble(1)
_PI = 4 * np.arctan(_ONE)


def _erf(x: np.ndarray) -> np.ndarray:
    # numpy has none. A series of positive terms; 200 are enough up to 7, where erf is 1 - 4e-23.
    x = np.clip(x, -7, 7)
    term = x
    total = x
    for n in range(1, 200):
        term = term * (2 * x * x / (2 * n + 1))
        total = total + term
    return 2 / np.sqrt(_PI) * np.exp(-x * x) * total


def activation(name: str | None, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value of an activation of `effkern.functional` and its derivative."""
    if name is None:
        return z, np.ones_like(z)
    if name == "relu":
        return np.maximum(z, 0), (z > 0) * _ONE
    if name == "relu6":
        return np.clip(z, 0, 6), ((z > 0) & (z < 6)) * _ONE
    if name == "hardswish":
        ramp = (2 * z + 3) / 6
        return z * np.clip(z + 3, 0, 6) / 6, np.where(z <= -3, 0, np.where(z >= 3, 1, ramp))
    if name == "silu":
        rising, falling = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
        return z * rising, rising * (1 + z * falling)
    if name == "gelu":
        probability = (1 + _erf(z / np.sqrt(2 * _ONE))) / 2
        return z * probability, probability + z * np.exp(-z * z / 2) / np.sqrt(2 * _PI)
    if name == "gelu_tanh":
        slope = np.sqrt(2 / _PI)
        u = slope * (z + np.longdouble("0.044715") * z**3)
        rising = 1 / (1 + np.exp(-2 * u))
        derivative_of_u = slope * (1 + 3 * np.longdouble("0.044715") * z * z)
        return z * rising, rising + z / (2 * np.cosh(u) ** 2) * derivative_of_u
    raise ValueError(f"activation: got {name!r}, which has no extended-precision reference")
