"""Calls of fused_mbconv that the Triton kernel takes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..depthwise_conv2d import triton_inference
from ..depthwise_conv2d.arguments import Params
from ..mbconv import pixels

_OP = "fused_mbconv"
_Block = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Params, tuple[int, int]]


def forward(name: str, input: Tensor, block: _Block, residual: Tensor | None) -> Tensor | None:
    """The result, or None for a call that is composed of torch's operators: another backend, a
    gradient, a transform, a compiler, or sizes that torch's convolution has words for.

    Args:
        name: of the function. block: weights and biases, parameters, size of the output.

    Raises:
        RuntimeError: a backend of Triton's is selected and has no kernel for the call.
    """
    expand_weight, expand_bias, project_weight, project_bias, params, size = block
    tensors = [t for t in (input, *block[:4], residual) if t is not None]
    sizes = (*input.shape[1:], *expand_weight.shape, *size)
    if not triton_inference.asked_for(tensors) or min(sizes) < 1:
        return None
    out_channels = (expand_weight if project_weight is None else project_weight).shape[0]
    triton_inference.check(name, input, _limit(project_weight))
    # Planes go by a copy to pixels and back: 2 C + 2 O numbers per pixel, and 2 O for a residual,
    # where the composition moves 4 E more than the kernel.
    last = torch.channels_last
    shape = (input.shape[0], out_channels, *size)
    output, result = triton_inference.outputs(input, shape, pixels.memory_format(input))
    if not output.numel():
        return output

    from ...triton_kernels.fused_mbconv import launch

    launch.forward(
        _OP,
        input.contiguous(memory_format=last),
        expand_weight.contiguous(memory_format=last),
        _dense(expand_bias),
        _dense(project_weight),
        _dense(project_bias),
        None if residual is None else residual.contiguous(memory_format=last),
        result,
        (*params[:3], params[4]),
        params[8],
    )
    return output if result is output else output.copy_(result)


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _limit(project_weight: Tensor | None) -> str | None:
    from ...triton_kernels.fused_mbconv import configs

    if project_weight is None or project_weight.shape[0] <= configs.MOST_OUT:
        return None
    channels = project_weight.shape[0]
    return f"its kernel projects to at most {configs.MOST_OUT} channels, not {channels}"
