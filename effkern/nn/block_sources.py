"""Which blocks have a replacement, and how it takes their place."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import convnext_block_sources, mbconv_sources
from .convnext_block import ConvNeXtBlock
from .convnext_block_sources import is_class
from .depthwise_conv2d import DepthwiseConv2d
from .depthwise_conv2d_sources import become, qualified_name
from .mbconv import FusedMBConv, MBConv

BLOCKS: tuple[type[nn.Module], ...] = (ConvNeXtBlock, MBConv, FusedMBConv)
_SOURCES = {
    ConvNeXtBlock: convnext_block_sources.SOURCES,
    MBConv: mbconv_sources.SOURCES["MBConv"],
    FusedMBConv: mbconv_sources.SOURCES["FusedMBConv"],
}


def _source(cls: type, target: type[nn.Module]) -> tuple[str, str] | None:
    return next((source for source in _SOURCES[target] if is_class(cls, *source)), None)


def parts_of(block: Any, target: type[nn.Module] | None = None) -> mbconv_sources.Parts:
    """The parts of an MBConv or FusedMBConv, or of a block that `target` stands for."""
    if target is None:
        target = MBConv if isinstance(block, MBConv) else FusedMBConv
    source = _source(getattr(block, "_source_class", type(block)), target)
    assert source is not None
    return mbconv_sources.parts(block, source)


def block_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that stands for blocks of this class, if there is one."""
    return next((target for target in BLOCKS if _source(type(module), target)), None)


def check(module: nn.Module) -> None:
    """TypeError or ValueError with the reason, if `module` is not what its replacement computes."""
    target = block_class(module)
    assert target is not None
    if target is ConvNeXtBlock:
        convnext_block_sources.check(module)
    else:
        mbconv_sources.check(module, parts_of(module, target), depthwise=target is MBConv)


def replace(module: nn.Module) -> None:
    """Turns a block that passed `check` into its replacement, in place."""
    source, target = type(module), block_class(module)
    assert target is not None
    become(module, target)
    vars(module)["_source_class"] = source


def restore(block: Any) -> None:
    """Undoes `replace`."""
    source = block._source_class
    become(block, source)
    for name in ("_source_class", "_folded", "_calls"):
        vars(block).pop(name, None)


def _copied(module: nn.Module) -> Any:
    """A module of its own that shares all that is in `module`; containers are copied as well."""
    new = type(module).__new__(type(module))
    new.__dict__.update(vars(module))
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        new.__dict__[name] = vars(module)[name].copy()
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            new._modules[name] = _copied(child)
        elif isinstance(child, nn.Conv2d) and child.groups == child.in_channels > 1:
            new._modules[name] = DepthwiseConv2d.from_conv(child)
    return new


def share(module: nn.Module, cls: type[nn.Module]) -> Any:
    """from_module of the blocks with BatchNorm."""
    where = f"effkern.nn.{cls.__name__}.from_module: module"
    target = next(base for base in (MBConv, FusedMBConv) if issubclass(cls, base))
    if _source(type(module), target) is None:
        wanted = " or ".join(".".join(source) for source in _SOURCES[target])
        raise TypeError(f"{where}: wanted {wanted}, got {qualified_name(type(module))}")
    try:
        check(module)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
    new = _copied(module)
    new.__class__ = cls
    vars(new)["_source_class"] = type(module)
    return new
