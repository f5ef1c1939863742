"""mbconv: the inverted residual block of MobileNetV2, EfficientNet and CoAtNet, for inference."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ... import _library
from ..depthwise_conv2d import fallback
from ..depthwise_conv2d.arguments import ACTIVATIONS, Params, code_of, resolve_for
from ..depthwise_conv2d.fused import SUMS
from ..depthwise_conv2d.fused import _run as depthwise
from . import checks, cuda_backend, pixels, squeeze_excite, triton_backend

if _library.available():
    _OPERATOR = torch.ops.effkern._mbconv.default
    _PACK = torch.ops.effkern._pack_pointwise.default

_NAME = "effkern.mbconv"
_SE = ("reduce_weight", "reduce_bias", "expand_weight", "expand_bias", "activation", "gate")

SqueezeExcite: TypeAlias = tuple[Tensor, Tensor | None, Tensor, Tensor | None, str | None, str]


class _Block(NamedTuple):
    """The weights of the block, 1x1 convolutions as matrices."""

    expand_weight: Tensor | None
    expand_bias: Tensor | None
    depthwise_weight: Tensor
    depthwise_bias: Tensor | None
    se: squeeze_excite.Arguments | None
    project_weight: Tensor
    project_bias: Tensor | None
    params: Params
    # Scale and shift between the gate and the second activation, or nothing.
    norm: tuple[Tensor, Tensor] | None


def mbconv(
    input: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    se: SqueezeExcite | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]],
    activation: str | None = "silu",
    residual: Tensor | None = None,
) -> Tensor:
    r"""Inverted residual block with BatchNorm folded into its convolutions.

    Computes ``h = activation(expand(input))``, ``d = activation(depthwise_conv2d(h))`` and
    ``project(gate(expand_se(act_se(reduce_se(mean(d))))) * d) + residual``, where expand, project
    and the two layers of the gate are 1x1 convolutions and the mean is over each image.

    Args:
        input: (N, C, H, W) or (C, H, W); float64, float32, float16 or bfloat16; contiguous and
            channels_last are fast.
        expand_weight, expand_bias: (E, C) or (E, C, 1, 1), and (E,) or None. Without a weight there
            is no expansion: E = C.
        depthwise_weight, depthwise_bias, stride, padding: (E, 1, kH, kW), (E,) or None, and as for
            :func:`depthwise_conv2d`.
        se: None or (reduce_weight, reduce_bias, expand_weight, expand_bias, activation, gate):
            (R, E), (R,) or None, (E, R), (E,) or None (weights also with two trailing ones), a name
            as for `activation`, "sigmoid" or "hardsigmoid".
        project_weight, project_bias: (O, E) or (O, E, 1, 1), and (O,) or None.
        activation: of expansion and depthwise convolution, as for :func:`depthwise_conv2d`.
        residual: added to the result, of its shape; for instance `input`.

    Returns:
        (N, O, H', W'), or (O, H', W') for an unbatched input, in the memory format of `input`.

    Raises:
        RuntimeError, TypeError, ValueError: shapes, dtypes or devices that do not go together, a
            bias without its weight, an unknown activation or gate, or as
            :func:`depthwise_conv2d`.

    On CPU a call that needs no gradient keeps the expanded channels of a few images at a time, in
    one buffer, and adds the projection to the residual. With backend "triton" such a call in
    float32, float16 or bfloat16 has kernels whose products take bias, activation, gate and residual
    along; with backend "cuda" so has an eager one in float16 or bfloat16, channels_last, with
    channels in multiples of 8. Everything else (gradients, torch.compile, autocast, other devices
    and backends) is composed of :func:`depthwise_conv2d_fused` and torch's operators,
    differentiable to any order.

    Source: MobileNetV2 (arXiv 1801.04381), EfficientNet (arXiv 1905.11946), squeeze-and-excitation
    (arXiv 1709.01507).
    """
    return mbconv_with_norm(
        input, expand_weight, expand_bias, depthwise_weight, depthwise_bias, se, None,
        project_weight, project_bias, stride=stride, padding=padding, activation=activation,
        residual=residual,
    )  # fmt: skip


def mbconv_with_norm(
    input, expand_weight, expand_bias, depthwise_weight, depthwise_bias, se, norm, project_weight,
    project_bias, *, stride, padding, activation, residual,
) -> Tensor:  # fmt: skip
    """:func:`mbconv` whose gate comes before a BatchNorm (CoAtNet in timm): with norm = (scale,
    shift) what is projected is ``activation(scale * gate * d + shift)``, the gate being that of
    ``d = depthwise_conv2d(h)``. Not public."""
    block = _checked(
        input, expand_weight, expand_bias, depthwise_weight, depthwise_bias, se, norm,
        project_weight, project_bias, stride, padding, activation, residual,
    )  # fmt: skip
    if input.dim() == 3:
        added = None if residual is None else residual.unsqueeze(0)
        return _run(input.unsqueeze(0), block, added).squeeze(0)
    return _run(input, block, residual)


def _checked(
    input, expand_weight, expand_bias, depthwise_weight, depthwise_bias, se, norm, project_weight,
    project_bias, stride, padding, activation, residual,
) -> _Block:  # fmt: skip
    required = {
        "input": input, "depthwise_weight": depthwise_weight, "project_weight": project_weight
    }  # fmt: skip
    optional = {
        "expand_weight": expand_weight, "expand_bias": expand_bias,
        "depthwise_bias": depthwise_bias, "project_bias": project_bias, "residual": residual,
    }  # fmt: skip
    if se is not None:
        _check_se_kinds(se)
        required |= {"se.reduce_weight": se[0], "se.expand_weight": se[2]}
        optional |= {"se.reduce_bias": se[1], "se.expand_bias": se[3]}
    if norm is not None:
        required |= {"norm.scale": norm[0], "norm.shift": norm[1]}
    checks.tensors(_NAME, required, optional)
    channels = input.shape[-3]
    if expand_weight is None:
        if expand_bias is not None:
            raise RuntimeError(f"{_NAME}: expand_bias: wanted with expand_weight, got it alone")
        hidden = channels
    else:
        expand_weight = checks.matrix(_NAME, "expand_weight", expand_weight, channels)
        hidden = expand_weight.shape[0]
        checks.shape(_NAME, "expand_bias", expand_bias, (hidden,))
    if depthwise_weight.dim() != 4 or tuple(depthwise_weight.shape[:2]) != (hidden, 1):
        raise RuntimeError(
            f"{_NAME}: depthwise_weight: wanted ({hidden}, 1, kH, kW), "
            f"got {tuple(depthwise_weight.shape)}"
        )
    checks.shape(_NAME, "depthwise_bias", depthwise_bias, (hidden,))
    project_weight = checks.matrix(_NAME, "project_weight", project_weight, hidden)
    checks.shape(_NAME, "project_bias", project_bias, (project_weight.shape[0],))
    for name, vector in zip(("norm.scale", "norm.shift"), norm or (), strict=False):
        checks.shape(_NAME, name, vector, (hidden,))
    params = resolve_for(_NAME, depthwise_weight, stride, padding, 1, activation)
    if residual is not None:
        size = checks.output_size(input, depthwise_weight, params)
        shape = (*input.shape[:-3], project_weight.shape[0], *size)
        checks.shape(_NAME, "residual", residual, shape)
    return _Block(
        expand_weight, expand_bias, depthwise_weight, depthwise_bias,
        None if se is None else _squeeze_excite(se, hidden), project_weight, project_bias, params,
        norm,
    )  # fmt: skip


def _check_se_kinds(se: Any) -> None:
    if not isinstance(se, (tuple, list)):
        raise TypeError(f"{_NAME}: se: wanted None or a tuple, got {type(se).__name__}")
    if len(se) != len(_SE):
        raise RuntimeError(f"{_NAME}: se: wanted ({', '.join(_SE)}), got {len(se)} values")
    if not isinstance(se[5], str):
        raise TypeError(f"{_NAME}: se.gate: wanted a str, got {type(se[5]).__name__}")
    if se[5] not in squeeze_excite.GATES:
        known = ", ".join(repr(gate) for gate in squeeze_excite.GATES)
        raise ValueError(f"{_NAME}: se.gate: wanted one of {known}, got {se[5]!r}")


def _squeeze_excite(se: SqueezeExcite, channels: int) -> squeeze_excite.Arguments:
    reduce_weight = checks.matrix(_NAME, "se.reduce_weight", se[0], channels)
    width = reduce_weight.shape[0]
    expand_weight = checks.matrix(_NAME, "se.expand_weight", se[2], width)
    if expand_weight.shape[0] != channels:
        got = tuple(expand_weight.shape)
        raise RuntimeError(f"{_NAME}: se.expand_weight: wanted ({channels}, {width}), got {got}")
    checks.shape(_NAME, "se.reduce_bias", se[1], (width,))
    checks.shape(_NAME, "se.expand_bias", se[3], (channels,))
    activation = code_of(_NAME, "se.activation", se[4], ACTIVATIONS)
    return squeeze_excite.Arguments(reduce_weight, se[1], expand_weight, se[3], activation, se[5])


def _tensors(input: Tensor, block: _Block, residual: Tensor | None) -> list[Tensor]:
    weights = [*block[:4], *block[5:7], *(block.se[:4] if block.se else ()), *(block.norm or ())]
    return [t for t in (input, *weights, residual) if isinstance(t, Tensor)]


def _infers(tensors: list[Tensor]) -> bool:
    return pixels.infers_on_cpu(tensors) and tensors[0].dtype != torch.float64


def _run(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor:
    tensors = _tensors(input, block, residual)
    if _infers(tensors):
        input = pixels.dense(input)
        if residual is not None:
            residual = residual.contiguous(memory_format=pixels.memory_format(input))
        return infer(input, _operands(block), residual)
    result = triton_backend.forward(_NAME, tensors, block, residual)
    if result is None:
        result = cuda_backend.run(input, block, residual, tensors)
    if result is not None:
        return result
    return _compose(input, block, residual)


def _convolve(images: Tensor, block: _Block) -> Tensor:
    """The depthwise convolution, its activation and the gate, in either order."""
    weight, bias, params, se = block.depthwise_weight, block.depthwise_bias, block.params, block.se
    code = params[8]
    if block.norm is not None:
        params = (*params[:8], 0)
    operands = (images, weight, bias, None, None, params, 0)
    if se is None:
        output = depthwise(*operands, SUMS[None])
    else:
        output, sums = depthwise(*operands, SUMS["spatial"])
        pixel_count = output.shape[2] * output.shape[3]
        gate = squeeze_excite.gate(sums, pixel_count, se, output.dtype)
        output = output * gate[:, :, None, None]
    if block.norm is None:
        return output
    scale, shift = (t[:, None, None] for t in block.norm)
    return fallback.activate(output * scale + shift, code)


def _compose(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor:
    if block.expand_weight is not None:
        code = block.params[8]
        input = pixels.pointwise(input, block.expand_weight, block.expand_bias, code)
    output = _convolve(input, block)
    output = pixels.pointwise(output, block.project_weight, block.project_bias, 0)
    return output if residual is None else output + residual


class Operands(NamedTuple):
    """Of the operator, between image and residual, and after the residual."""

    weights: tuple[Tensor | None, ...]
    # Those of the 1x1 convolutions in the order in which the products read them, or nothing.
    packed: tuple[Tensor | None, Tensor | None]
    numbers: tuple[Any, ...]


def _operands(block: _Block) -> Operands:
    se = block.se
    weights = (*block[:4], *(se[:4] if se else (None,) * 4), *(block.norm or (None, None)))
    weights = (*weights, block.project_weight, block.project_bias)
    dense = tuple(None if t is None else t.contiguous() for t in weights)
    hard = se is not None and se.gate == "hardsigmoid"
    numbers = (*block.params, se.activation if se else 0, hard)
    return Operands(dense, (None, None), numbers)


def operands(input: Tensor, *arguments: Any) -> Operands | None:
    """What :func:`infer` takes for this call and for others with images of the same size and dtype,
    or None if the call is composed. Arguments as those of :func:`mbconv_with_norm`, in its order.
    """
    block = _checked(input, *arguments)
    return _operands(block) if _infers(_tensors(input, block, arguments[-1])) else None


def infer(images: Tensor, operands: Operands, residual: Tensor | None) -> Tensor:
    """The call, unchecked; images and residual are dense, with the same strides."""
    return _OPERATOR(images, *operands.weights, *operands.packed, residual, *operands.numbers)


def pack(operands: Operands) -> tuple[Tensor | None, Tensor | None]:
    """`Operands.packed`, for who calls often: of few pixels, packing takes a tenth of a call."""
    expand, project = operands.weights[0], operands.weights[10]
    return None if expand is None else _PACK(expand), None if project is None else _PACK(project)
