"""Which modules MBConv and FusedMBConv can stand in for, and their parts.

A block is taken only if each of its parts has a class and a configuration that is listed here; the
rest is refused with a reason. Nothing here imports the packages it recognises.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from .convnext_block_sources import activation_name, check_untouched, is_class
from .depthwise_conv2d import DepthwiseConv2d
from .depthwise_conv2d_same import DepthwiseConv2dSame
from .depthwise_conv2d_sources import known_class, qualified_name
from .folded_batch_norm import FoldedBatchNorm
from .squeeze_excite_sources import se_arguments

_TIMM = "timm.models._efficientnet_blocks"
_MAXXVIT = "timm.models.maxxvit"
_TORCHVISION = "torchvision.models.efficientnet"
# The classes, by that of effkern which takes their place.
SOURCES = {
    "MBConv": (
        (_TIMM, "InvertedResidual"),
        (_TIMM, "DepthwiseSeparableConv"),
        (_MAXXVIT, "MbConvBlock"),
        (_TORCHVISION, "MBConv"),
    ),
    "FusedMBConv": (
        (_TIMM, "EdgeResidual"),
        (_TIMM, "ConvBnAct"),
        (_TORCHVISION, "FusedMBConv"),
    ),
}


class Layer(NamedTuple):
    """A convolution, what normalises its result (or None) and the activation (or None)."""

    conv: Any
    norm: Any
    activation: Any


class Parts(NamedTuple):
    """What a block consists of.

    `before` is applied to the input of the first convolution, `shortcut` to what is added in the
    end, if it is not None; `inert` must not do anything. `se` comes after the norm of `middle`,
    `early_se` before it.
    """

    before: tuple[nn.Module, ...]
    expand: Layer | None
    middle: Layer
    se: Any
    project: Layer | None
    shortcut: nn.Module | None
    drop_path: nn.Module
    inert: tuple[Any, ...]
    early_se: Any = None


def _timm_layer(conv: Any, norm: Any) -> Layer:
    return Layer(conv, norm, getattr(norm, "act", None))


def _torchvision_layer(layers: Any) -> Layer:
    if not is_class(type(layers), "torchvision.ops.misc", "Conv2dNormActivation"):
        raise TypeError(f"wanted a Conv2dNormActivation, got {qualified_name(type(layers))}")
    modules = list(layers)
    return Layer(*modules, *[None] * (3 - len(modules)))


def parts(block: Any, source: tuple[str, str]) -> Parts:
    module, name = source
    if module == _TORCHVISION:
        layers = list(block.block)
        dense = name == "FusedMBConv"
        se = None if dense else layers.pop(-2)
        convolutions = [_torchvision_layer(layer) for layer in layers]
        project = convolutions.pop() if len(convolutions) > 1 or not dense else None
        middle = convolutions.pop()
        expand = convolutions.pop() if convolutions else None
        shortcut = nn.Identity() if block.use_res_connect else None
        return Parts((), expand, middle, se, project, shortcut, block.stochastic_depth, ())
    if module == _MAXXVIT:
        return Parts(
            (block.pre_norm, block.down), _timm_layer(block.conv1_1x1, block.norm1),
            _timm_layer(block.conv2_kxk, block.norm2), block.se,
            Layer(block.conv3_1x1, None, None), block.shortcut, block.drop_path, (), block.se_early,
        )  # fmt: skip
    expand = project = None
    if name == "InvertedResidual":
        expand = _timm_layer(block.conv_pw, block.bn1)
        middle = _timm_layer(block.conv_dw, block.bn2)
        project = _timm_layer(block.conv_pwl, block.bn3)
    elif name == "DepthwiseSeparableConv":
        middle = _timm_layer(block.conv_dw, block.bn1)
        project = _timm_layer(block.conv_pw, block.bn2)
    elif name == "EdgeResidual":
        middle = _timm_layer(block.conv_exp, block.bn1)
        project = _timm_layer(block.conv_pwl, block.bn2)
    else:
        middle = _timm_layer(block.conv, block.bn1)
    shortcut = nn.Identity() if block.has_skip else None
    se, inert = getattr(block, "se", None), (block.aa, getattr(block, "conv_s2d", None))
    return Parts((), expand, middle, se, project, shortcut, block.drop_path, inert)


def is_nothing(module: Any) -> bool:
    return module is None or type(module) is nn.Identity


def layer_activation(layer: Layer) -> str | None:
    return None if is_nothing(layer.activation) else activation_name(layer.activation)


def check(block: nn.Module, found: Parts, depthwise: bool) -> None:
    """TypeError or ValueError with the reason, if the block is not what the function computes."""
    check_untouched(block)
    for module in found.inert:
        if not is_nothing(module):
            raise ValueError(f"the block computes more: {qualified_name(type(module))}")
    drop = type(found.drop_path)
    if not (
        drop is nn.Identity
        or is_class(drop, "timm.layers.drop", "DropPath")
        or is_class(drop, "torchvision.ops.stochastic_depth", "StochasticDepth")
    ):
        raise TypeError(f"stochastic depth is {qualified_name(drop)}")
    for layer in (found.expand, found.middle, found.project):
        if layer is not None:
            _check_layer(layer)
    for layer in (found.expand, found.project):
        if layer is not None and not _is_pointwise(layer.conv):
            raise ValueError(f"wanted a 1x1 convolution with stride 1, got {layer.conv}")
    if found.expand is not None and layer_activation(found.expand) != layer_activation(
        found.middle
    ):
        raise ValueError("the two activations are not the same")
    if found.project is not None and not is_nothing(found.project.activation):
        raise ValueError("the projection has an activation")
    conv = found.middle.conv
    if depthwise:
        known_class(conv)
        if not conv.groups == conv.in_channels == conv.out_channels:
            raise ValueError(f"the convolution is not depthwise: {conv}")
    elif conv.groups != 1 or not (type(conv) is nn.Conv2d or is_same(conv)):
        raise ValueError(f"the convolution is not dense: {conv}")
    if set(conv.dilation) != {1} or conv.padding_mode != "zeros":
        raise ValueError(f"the convolution is dilated or pads with other than zeros: {conv}")
    for se in (found.se, found.early_se):
        if not is_nothing(se) and (not depthwise or se_arguments(se) is None):
            raise TypeError(f"squeeze-and-excitation is {se}")
    plain = is_nothing(found.middle.norm) or type(found.middle.norm) is FoldedBatchNorm
    if not is_nothing(found.early_se) and (plain or not is_nothing(found.se)):
        raise ValueError("squeeze-and-excitation comes before a norm, and that is not all")


def _check_layer(layer: Layer) -> None:
    norm, cls = layer.norm, type(layer.norm)
    known = cls in (nn.BatchNorm2d, FoldedBatchNorm) or is_nothing(norm)
    if not (known or is_class(cls, "timm.layers.norm_act", "BatchNormAct2d")):
        raise TypeError(f"the norm is {qualified_name(cls)}, wanted a BatchNorm2d")
    if not is_nothing(getattr(norm, "drop", None)):
        raise ValueError(f"the norm computes more: {norm.drop}")
    if not is_nothing(layer.activation) and activation_name(layer.activation) is None:
        name = qualified_name(type(layer.activation))
        raise TypeError(f"the activation is {name}, which effkern does not have")


def _is_pointwise(conv: Any) -> bool:
    return (
        type(conv) is nn.Conv2d
        and (*conv.kernel_size, *conv.stride, conv.groups) == (1,) * 5
        and conv.padding in ("valid", "same", (0, 0))
    )


def is_same(conv: nn.Module) -> bool:
    """Whether a convolution pads for itself, to ceil(size / stride)."""
    timm = is_class(type(conv), "timm.layers.conv2d_same", "Conv2dSame")
    return timm or (isinstance(conv, DepthwiseConv2d) and isinstance(conv, DepthwiseConv2dSame))
