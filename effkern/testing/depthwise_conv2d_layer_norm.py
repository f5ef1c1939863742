"""What a depthwise convolution with LayerNorm should give, in extended precision, and its scale.

The accumulation scale of a result is what an error of one rounding unit in each sum that leads to
it becomes there, to first order: with z the convolution, S the magnitudes of its terms, m a mean
over channels and y = (z - m(z)) * rstd,

    error of y          rstd * (S + m(S) + |y| * m(|y| * S))
    error of the result |norm_weight| * (error of y + |y|) + |norm_bias|
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..reference.depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm as reference
from . import extended_precision
from .depthwise_conv2d import Expected
from .extended_precision import widened
from .problems import DepthwiseConv2dCase

_NAMES = ("input", "weight", "bias", "norm_weight", "norm_bias")
_HALF = (torch.float16, torch.bfloat16)


def norm_tensors(case: DepthwiseConv2dCase, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random weight and bias of the LayerNorm, the same for the same arguments."""
    generator = torch.Generator().manual_seed(11)
    shape = (2, case.weight_shape[0])
    weight, bias = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return weight, bias


def _mean(value: np.ndarray) -> np.ndarray:
    return value.mean(1, keepdims=True)


def _tensor(value: np.ndarray) -> Tensor:
    return torch.as_tensor(value.astype(np.float64))


class Exact:
    """The results for the tensors of `case` in extended precision.

    Args:
        tensors: input, weight, bias or None, and norm_weight and norm_bias, each or None.
        grad_output: the gradient of the result.
    """

    def __init__(
        self,
        case: DepthwiseConv2dCase,
        tensors: tuple[Any, ...],
        grad_output: Tensor,
        eps: float,
    ) -> None:
        self._case, self._tensors, self._grad, self._eps = case, tensors, grad_output, eps
        self._dtype: torch.dtype = tensors[0].dtype
        x, w = widened(tensors[0]), widened(tensors[1])
        b, gamma, beta = (
            np.full(w.shape[0], otherwise) if t is None else widened(t)
            for t, otherwise in zip(tensors[2:], (0.0, 1.0, 0.0), strict=True)
        )
        gamma, beta = gamma[:, None, None], beta[:, None, None]
        grad = widened(grad_output)

        z = extended_precision.forward(case, x, w, b)
        terms = extended_precision.forward(case, abs(x), abs(w), abs(b))
        center = z - _mean(z)
        rstd = 1 / np.sqrt(_mean(center**2) + eps)
        y = center * rstd
        y_error = rstd * (terms + _mean(terms) + abs(y) * _mean(abs(y) * terms))
        self._output = y * gamma + beta
        self._output_scale = abs(gamma) * (y_error + abs(y)) + abs(beta)

        g = grad * gamma
        grad_z = rstd * (g - _mean(g) - y * _mean(g * y))
        magnitude = abs(g) + _mean(abs(g)) + abs(y) * _mean(abs(g * y))
        from_y = y_error * _mean(abs(g * y)) + abs(y) * _mean(abs(g) * y_error)
        from_rstd = abs(grad_z) * _mean(abs(y) * terms)
        grad_z_scale = rstd * (magnitude + from_y + from_rstd)
        pixels = (0, 2, 3)
        # One for each of the five tensors, whether it is there or not.
        self._gradients = [
            *extended_precision.backward(case, grad_z, x, w),
            (grad * y).sum(pixels),
            grad.sum(pixels),
        ]
        self._gradient_scales = [
            *extended_precision.backward(case, grad_z_scale, abs(x), abs(w)),
            (abs(grad) * (abs(y) + y_error)).sum(pixels),
            abs(grad).sum(pixels),
        ]

    def check_output(self, actual: Tensor) -> None:
        """Within twice torch's error and one rounding unit; see `effkern.testing.tolerances`."""
        if self._dtype in _HALF:
            # Rounded once, which a chain of torch's operators is not.
            torch_result = _tensor(self._output).to(self._dtype)
        else:
            torch_result = self._torch()[0]
        Expected(torch_result, self._output, _tensor(self._output_scale)).check(actual, "output")

    def check_gradients(self, actual: tuple[Tensor, ...]) -> None:
        """Those of the tensors that are not None, in their order."""
        half = self._dtype in _HALF
        torch_results = iter(() if half else self._torch()[1])
        results = iter(actual)
        for name, leaf, exact, scale in zip(
            _NAMES, self._tensors, self._gradients, self._gradient_scales, strict=True
        ):
            if leaf is None:
                continue
            torch_result = _tensor(exact).to(leaf.dtype) if half else next(torch_results)
            # The gradient of the convolution's result is a tensor, rounded to the dtype.
            rounded = self._dtype if half and not name.startswith("norm") else None
            expected = Expected(torch_result, exact, _tensor(scale), rounded)
            expected.check(next(results), f"grad_{name}")

    def _torch(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves: list[Any] = [
            None if t is None else t.detach().requires_grad_() for t in self._tensors
        ]
        output = reference(*leaves, self._eps, padding=self._case.padding)  # type: ignore[misc]
        wanted = [t for t in leaves if t is not None]
        return output.detach(), torch.autograd.grad(output, wanted, self._grad)
