"""What a depthwise convolution should give: torch's result, the exact one, and its scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..reference.depthwise_conv2d import depthwise_conv2d
from . import extended_precision
from .extended_precision import widened
from .problems import DepthwiseConv2dCase
from .tolerances import assert_within_bound

# Where the derivative jumps. A result that is a rounding error away from it may take either side.
_KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "hardswish": (-3.0, 3.0)}


class Expected(NamedTuple):
    """The arguments of `assert_within_bound` for one result."""

    torch_result: Tensor
    reference: Tensor | np.ndarray
    scale: Tensor
    accumulation_dtype: torch.dtype | None = None

    def check(self, actual: Tensor, what: str) -> None:
        assert_within_bound(
            actual,
            self.torch_result,
            self.reference,
            self.scale,
            accumulation_dtype=self.accumulation_dtype,
            what=what,
        )


def _double(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.detach().cpu().double() for t in tensors]


def _magnitudes(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.abs() for t in _double(*tensors)]


def _autograd(
    case: DepthwiseConv2dCase,
    grad_output: Tensor,
    tensors: Sequence[Tensor | None],
    activation: str | None,
) -> list[Tensor]:
    leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = depthwise_conv2d(*leaves, **case.kwargs, activation=activation)
    return list(torch.autograd.grad(output, [t for t in leaves if t is not None], grad_output))


def _pre(
    case: DepthwiseConv2dCase, input: Tensor, weight: Tensor, bias: Tensor | None
) -> np.ndarray:
    wide_bias = None if bias is None else widened(bias)
    return extended_precision.forward(case, widened(input), widened(weight), wide_bias)


def expected_output(
    case: DepthwiseConv2dCase,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None = None,
) -> Expected:
    """For the tensors of `case`, on any device and in any dtype and layout."""
    # torch 2.11 does not come back from channels_last bfloat16 images of few channels and kernels
    # from 17x17 on, on processors with AVX512_BF16.
    torch_result = depthwise_conv2d(
        input.contiguous(), weight, bias, **case.kwargs, activation=activation
    )
    reference: Tensor | np.ndarray
    if input.dtype != torch.float64:
        reference = depthwise_conv2d(
            *_double(input, weight, bias), **case.kwargs, activation=activation
        )
    else:
        reference, _ = extended_precision.activation(activation, _pre(case, input, weight, bias))
    return Expected(
        torch_result,
        reference,
        depthwise_conv2d(*_magnitudes(input, weight, bias), **case.kwargs),
    )


def expected_gradients(
    case: DepthwiseConv2dCase,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None = None,
) -> list[Expected]:
    """For the gradients of input, weight and, if there is one, bias."""
    references: Sequence[Any]
    if input.dtype != torch.float64:
        references = _autograd(
            case, _double(grad_output)[0], _double(input, weight, bias), activation
        )
    else:
        _, slope = extended_precision.activation(activation, _pre(case, input, weight, bias))
        references = extended_precision.backward(
            case, widened(grad_output) * slope, widened(input), widened(weight)
        )
    scales = _autograd(case, _magnitudes(grad_output)[0], _magnitudes(input, weight, bias), None)
    if input.dtype in (torch.float16, torch.bfloat16):
        # torch's CPU gradients add up in 16 bits and are wrong by far more than any bound worth
        # having: the exact results, rounded, are what to be as good as.
        torch_results = [r.to(input.dtype) for r in references if isinstance(r, Tensor)]
    else:
        torch_results = _autograd(case, grad_output, (input, weight, bias), activation)
    # With an activation the gradient of its argument is a tensor, rounded to the dtype.
    accumulation_dtype = None if activation is None else input.dtype
    return [
        Expected(torch_results[i], references[i], scales[i], accumulation_dtype)
        for i in range(len(scales))
    ]


def without_kinks(
    case: DepthwiseConv2dCase,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
) -> Tensor:
    """`grad_output`, zero where rounding decides on which side of a kink the activation is."""
    tensors = (input, weight, bias)
    pre = depthwise_conv2d(*_double(*tensors), **case.kwargs)
    scale = depthwise_conv2d(*_magnitudes(*tensors), **case.kwargs)
    grad_output = grad_output.clone()
    for kink in _KINKS.get(activation or "", ()):
        near = (pre - kink).abs() <= 4 * torch.finfo(input.dtype).eps * (scale + abs(kink))
        grad_output[near.to(grad_output.device)] = 0
    return grad_output
