"""Which convolution modules DepthwiseConv2d can stand in for, and how it takes their place.

A subclass of torch.nn.Conv2d may compute anything in its forward, so it is taken only if it is
listed here; the rest is refused with a reason. Nothing here imports the packages it recognises.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .depthwise_conv2d import DepthwiseConv2d
from .depthwise_conv2d_same import DepthwiseConv2dSame, DepthwiseConv2dStaticSame

_KNOWN: dict[tuple[str, str], type[DepthwiseConv2d]] = {
    ("timm.layers.conv2d_same", "Conv2dSame"): DepthwiseConv2dSame,
    **{
        (f"{package}.utils", f"Conv2d{kind}SamePadding"): replacement
        for package in ("efficientnet_lite_pytorch", "efficientnet_pytorch")
        for kind, replacement in (
            ("Static", DepthwiseConv2dStaticSame),
            ("Dynamic", DepthwiseConv2dSame),
        )
    },
}
_WANTED = "torch.nn.Conv2d, or a subclass of it whose forward effkern knows"


def qualified_name(cls: type) -> str:
    """Module and name of a class, with torch.nn and effkern.nn as users import from them."""
    for public in ("torch.nn", "effkern.nn"):
        inner = f"{public}.modules." if public == "torch.nn" else f"{public}."
        if cls.__module__.startswith(inner):
            return f"{public}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def unparametrized_class(module: nn.Module) -> type:
    """The class of `module`, below the one that torch.nn.utils.parametrize puts on top."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _rebase(module: nn.Module, base: type) -> Any:
    """`base`, with the properties that a parametrization of `module` needs."""
    if not parametrize.is_parametrized(module):
        return base
    own = {"__dict__", "__weakref__", "__doc__", "__module__"}
    namespace = {key: value for key, value in vars(type(module)).items() if key not in own}
    return type(f"Parametrized{base.__name__}", (base,), namespace)


def _is_static_padding(module: object, package_identity: object) -> bool:
    """Whether `module` only adds zeros, or nothing, so that the operator can do it instead."""
    if type(module) is nn.ZeroPad2d:
        exact = min(module.padding) >= 0
    else:
        exact = type(module) in (nn.Identity, package_identity)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return exact and "forward" not in vars(module) and not any(vars(module)[h] for h in hooks)


def known_class(conv: nn.Module) -> type[DepthwiseConv2d]:
    """The class for a depthwise `conv` of this class; TypeError if its forward is unknown."""
    cls = unparametrized_class(conv)
    if cls is nn.Conv2d:
        return DepthwiseConv2d
    if issubclass(cls, DepthwiseConv2d):
        return cls
    replacement = _KNOWN.get((cls.__module__, cls.__qualname__))
    package = sys.modules.get(cls.__module__)
    # A class that only has the name of a known one is unknown.
    if replacement is not None and getattr(package, cls.__qualname__, None) is cls:
        if replacement is DepthwiseConv2dSame:
            exact = conv.padding == (0, 0)
        else:
            padding = getattr(conv, "static_padding", None)
            exact = _is_static_padding(padding, getattr(package, "Identity", None))
        if exact:
            return replacement
    raise TypeError(f"wanted {_WANTED}, got {qualified_name(cls)}")


def replacement_class(conv: nn.Module) -> type[DepthwiseConv2d]:
    """The class that computes what `conv` computes.

    Raises:
        TypeError: `conv` is no convolution that effkern knows.
        ValueError: `conv` is not depthwise.
    """
    if isinstance(conv, torch.jit.ScriptModule):
        raise TypeError("got a ScriptModule; convert the model before scripting or tracing it")
    if isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        raise TypeError(
            f"got {qualified_name(type(conv))}, whose shape is not known yet; run one batch first"
        )
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"wanted {_WANTED}, got {qualified_name(type(conv))}")
    known = known_class(conv)
    patched = [name for name in ("forward", "_conv_forward") if name in vars(conv)]
    if patched:
        raise TypeError(f"got a module whose {patched[0]} was replaced on the instance")
    if conv._compiled_call_impl is not None:
        raise TypeError("got a module compiled with .compile(); convert before compiling")
    if conv.groups != conv.in_channels:
        raise ValueError(f"groups: wanted in_channels ({conv.in_channels}), got {conv.groups}")
    return known


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Turns `module` into a `cls` in place, as torch.nn.utils.parametrize does.

    The object stays the same, so whatever refers to it (several parents, hooks and their handles,
    optimizers, plain lists) keeps doing so.
    """
    module.__class__ = _rebase(module, cls)


def share(conv: nn.Conv2d, cls: type[DepthwiseConv2d]) -> DepthwiseConv2d:
    """DepthwiseConv2d.from_conv."""
    try:
        known = replacement_class(conv)
    except (TypeError, ValueError) as error:
        raise type(error)(f"effkern.DepthwiseConv2d.from_conv: conv: {error}") from None
    target = cls if known is DepthwiseConv2d else known
    new = target.__new__(_rebase(conv, target))
    new.__dict__.update(vars(conv))
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        new.__dict__[name] = vars(conv)[name].copy()
    if not isinstance(conv, DepthwiseConv2d):
        new._converted_from = unparametrized_class(conv)
    return new
