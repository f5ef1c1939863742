"""DepthwiseConv2d, a drop-in torch.nn.Conv2d for groups == in_channels."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.common_types import _size_2_t

from effkern.ops.depthwise_conv2d import Params, resolve, run

# A leaf of torch.fx.symbolic_trace.
torch.fx.wrap("run")


class DepthwiseConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` with ``groups == in_channels``, computed by effkern.

    Arguments, attributes, initialisation, state_dict and repr are those of ``torch.nn.Conv2d``, but
    `groups` is None or `in_channels`, and `out_channels` any multiple of it. Input (N, C_in, H, W)
    or (C_in, H, W), weight (C_out, 1, kernel_h, kernel_w), bias (C_out,); dtypes, layouts and what
    falls back to torch as for :func:`effkern.functional.depthwise_conv2d`.

    Raises:
        ValueError: another `groups`, or an argument that ``torch.nn.Conv2d`` rejects.
    """

    # The convolution class that `from_conv` or `effkern.convert` replaced.
    _converted_from: type[nn.Conv2d] | None = None
    # (geometry, its resolved form), kept because resolving costs as much as a small convolution.
    _resolved: tuple[Any, Params] | None = None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: _size_2_t, stride: _size_2_t = 1,
        padding: str | _size_2_t = 0, dilation: _size_2_t = 1, groups: int | None = None,
        bias: bool = True, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if groups is not None and groups != in_channels:
            wanted = f"wanted None or in_channels ({in_channels}), got {groups!r}"
            raise ValueError(f"effkern.DepthwiseConv2d: groups: {wanted}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, in_channels, bias,
            padding_mode, device, dtype,  # type: ignore[arg-type]
        )  # fmt: skip

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> DepthwiseConv2d:
        """A new layer with the parameters, buffers, submodules, hooks and training mode of `conv`.

        Raises:
            TypeError: `conv` is no ``torch.nn.Conv2d`` and none of the subclasses that effkern
                knows (docs/ops/depthwise_conv2d.md); its forward may compute anything.
            ValueError: `conv.groups` is not `conv.in_channels`.
        """
        from .depthwise_conv2d_sources import share

        return share(conv, cls)

    def _params(self, weight: Tensor, padding: Any) -> Params:
        # F.conv2d takes the kernel size from the weight. Under torch.fx that is a Proxy.
        from_weight = padding == "same" and isinstance(weight, Tensor)
        kernel_size: Any = tuple(weight.shape[2:]) if from_weight else self.kernel_size
        geometry = (kernel_size, self.stride, padding, self.dilation)
        if is_compiling():
            return resolve(*geometry)
        # Compared by value at each call: users assign to these attributes, and some are lists.
        if self._resolved is None or self._resolved[0] != geometry:
            self._resolved = copy.deepcopy(geometry), resolve(*geometry)
        return self._resolved[1]

    def _prepare(self, input: Tensor, weight: Tensor) -> tuple[Tensor, Params]:
        """The operator's input and its integer parameters; subclasses pad in other ways."""
        if self.padding_mode == "zeros":
            return input, self._params(weight, self.padding)
        input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return input, self._params(weight, (0, 0))

    def forward(self, input: Tensor) -> Tensor:
        if is_compiling():
            return super().forward(input)
        # nn.Module finds a parameter by name only after everything else: a microsecond each.
        parameters = self._parameters
        weight, bias = parameters.get("weight"), parameters.get("bias")
        return self._conv_forward(
            input,
            self.weight if weight is None else weight,
            self.bias if bias is None else bias,
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, params = self._prepare(input, weight)
        return run(input, weight, bias, params)
