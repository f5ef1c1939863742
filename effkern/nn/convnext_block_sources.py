"""Which modules ConvNeXtBlock can stand in for, and their parts.

A block is taken only if each of its parts has a class and a configuration that is listed here; the
rest is refused with a reason. Nothing here imports the packages it recognises.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .convnext_block import ConvNeXtBlock
from .depthwise_conv2d_sources import known_class, qualified_name

_TIMM = ("timm.models.convnext", "ConvNeXtBlock")
_TORCHVISION = ("torchvision.models.convnext", "CNBlock")
SOURCES = (_TIMM, _TORCHVISION)
_NORMS = ("LayerNorm", "LayerNorm2d")
_ACTIVATIONS = {
    "GELU": "gelu", "GELUTanh": "gelu_tanh", "SiLU": "silu", "ReLU": "relu", "ReLU6": "relu6",
    "Hardswish": "hardswish",
}  # fmt: skip
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Parts(NamedTuple):
    """What a block consists of."""

    conv: Any
    norm: Any
    fc1: Any
    activation: nn.Module
    fc2: Any
    gamma: Tensor | None
    drop_path: Any
    grn: Any
    # Must not do anything.
    others: tuple[nn.Module, ...]


def is_class(cls: type, module: str, *names: str) -> bool:
    """Whether `cls` is the class that has one of these names in `module`, if that is imported."""
    package = sys.modules.get(module)
    return any(getattr(package, name, None) is cls for name in names)


def _kind(cls: type) -> tuple[str, str] | None:
    return next((kind for kind in SOURCES if is_class(cls, *kind)), None)


def _parts(block: Any, kind: tuple[str, str]) -> Parts:
    if kind == _TORCHVISION:
        conv, _, norm, fc1, activation, fc2, _ = block.block
        gamma = block.layer_scale.flatten()
        return Parts(conv, norm, fc1, activation, fc2, gamma, block.stochastic_depth, None, ())
    mlp = block.mlp
    others = (block.shortcut, mlp.drop1, mlp.drop2, getattr(mlp, "norm", nn.Identity()))
    grn = getattr(mlp, "grn", None)
    return Parts(
        block.conv_dw, block.norm, mlp.fc1, mlp.act, mlp.fc2, block.gamma, block.drop_path, grn,
        others,
    )  # fmt: skip


def activation_name(module: Any) -> str | None:
    """effkern's name of an activation, or None."""
    cls = type(module)
    if cls is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    for name, activation in _ACTIVATIONS.items():
        if cls is getattr(nn, name, None) or is_class(cls, "timm.layers.activations", name):
            return activation
    return None


def check_untouched(block: nn.Module) -> None:
    """TypeError if something was hung into a submodule that will not be called."""
    for name, module in block.named_modules():
        if name and any(vars(module).get(hooks) for hooks in _HOOKS):
            raise TypeError(f"{name} has hooks")
        if parametrize.is_parametrized(module) or "forward" in vars(module):
            raise TypeError(f"{name or 'the block'} is parametrized or its forward was replaced")


def _check_parts(block: nn.Module, parts: Parts) -> None:
    check_untouched(block)
    conv, norm = parts.conv, parts.norm
    known_class(conv)
    channels = conv.in_channels
    if not conv.groups == conv.out_channels == channels:
        raise ValueError(f"the convolution is not depthwise with {channels} output channels")
    sizes = [k - 1 for k in conv.kernel_size]
    same = conv.padding == "same" or [2 * p for p in conv.padding] == sizes
    if set(conv.stride) | set(conv.dilation) != {1} or not same or conv.padding_mode != "zeros":
        raise ValueError(f"the convolution changes the image's size, is dilated or pads: {conv}")
    known_norm = type(norm) is nn.LayerNorm or is_class(type(norm), "timm.layers.norm", *_NORMS)
    if not known_norm or tuple(norm.normalized_shape) != (channels,):
        raise TypeError(f"the norm is {qualified_name(type(norm))}, wanted a LayerNorm")
    for layer in (parts.fc1, parts.fc2):
        pointwise = type(layer) is nn.Conv2d and layer.weight.shape[2:].numel() == 1
        if pointwise:
            plain = layer.groups == 1 and set(layer.stride) == {1} and set(layer.padding) == {0}
        if not (type(layer) is nn.Linear or (pointwise and plain)):
            raise TypeError(f"wanted a Linear or a 1x1 convolution, got {layer}")
    if activation_name(parts.activation) is None:
        name = qualified_name(type(parts.activation))
        raise TypeError(f"the activation is {name}, which effkern does not have")
    for other in parts.others:
        if not (type(other) is nn.Identity or (type(other) is nn.Dropout and other.p == 0)):
            raise ValueError(f"the block computes more: {other}")
    if parts.grn is not None and not is_class(
        type(parts.grn), "timm.layers.grn", "GlobalResponseNorm"
    ):
        raise TypeError(f"the response norm is {qualified_name(type(parts.grn))}")
    drop = parts.drop_path
    row = is_class(type(drop), "torchvision.ops.stochastic_depth", "StochasticDepth")
    if not (
        type(drop) is nn.Identity
        or (row and drop.mode == "row")
        or is_class(type(drop), "timm.layers.drop", "DropPath")
    ):
        raise TypeError(f"stochastic depth is {drop}")


def check(block: nn.Module) -> None:
    """TypeError or ValueError with the reason, if ConvNeXtBlock does not compute `block`."""
    kind = _kind(type(block))
    assert kind is not None
    _check_parts(block, _parts(block, kind))


def drop_path(block: ConvNeXtBlock) -> tuple[float, bool]:
    """The probability that a sample's branch is dropped, and whether the others are scaled."""
    kind = _kind(block._source_class)
    module: Any = block.stochastic_depth if kind == _TORCHVISION else block.drop_path
    if type(module) is nn.Identity:
        return 0.0, True
    if kind == _TORCHVISION:
        return module.p, True
    return module.drop_prob or 0.0, module.scale_by_keep


def arguments(block: ConvNeXtBlock) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Those of effkern.functional.convnext_block after the input."""
    kind = _kind(block._source_class)
    assert kind is not None
    parts = _parts(block, kind)
    conv, norm, fc1, fc2, grn = parts.conv, parts.norm, parts.fc1, parts.fc2, parts.grn
    tensors = (
        conv.weight, conv.bias, norm.weight, norm.bias, fc1.weight.flatten(1), fc1.bias,
        fc2.weight.flatten(1), fc2.bias, parts.gamma,
    )  # fmt: skip
    keywords = {
        "eps": norm.eps,
        "padding": conv.padding,
        "activation": activation_name(parts.activation),
    }
    if grn is not None:
        keywords |= {"grn_weight": grn.weight, "grn_bias": grn.bias}
    return tensors, keywords


def share(module: nn.Module, cls: type[ConvNeXtBlock]) -> ConvNeXtBlock:
    """ConvNeXtBlock.from_module."""
    where = "effkern.nn.ConvNeXtBlock.from_module: module"
    kind = _kind(type(module))
    if kind is None:
        name = qualified_name(type(module))
        raise TypeError(
            f"{where}: wanted {'.'.join(_TIMM)} or {'.'.join(_TORCHVISION)}, got {name}"
        )
    try:
        check(module)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
    new = cls.__new__(cls)
    new.__dict__.update(vars(module))
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        new.__dict__[name] = vars(module)[name].copy()
    new._source_class = type(module)
    return new
