"""Swapping effkern's modules into a model, reporting on it, and undoing it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from .nn import block_sources
from .nn.depthwise_conv2d import DepthwiseConv2d
from .nn.depthwise_conv2d_sources import (
    become,
    qualified_name,
    replacement_class,
    unparametrized_class,
)

_Model = TypeVar("_Model", bound=nn.Module)
_NOT_DEPTHWISE = "not depthwise"


@dataclass(frozen=True)
class ReportRow:
    """One convolution of a model, or one block that effkern can replace as a whole.

    Attributes:
        path: its name in ``model.named_modules()``; "" is the model itself.
        old_class: the class it has, or had before ``effkern.convert``.
        new_class: the class that ``effkern.convert`` gave it, or None if it was left alone.
        reason: why it was left alone, or "".
        is_block: whether it is a block; its convolutions have rows of their own.
    """

    path: str
    old_class: type
    new_class: type | None
    reason: str
    is_block: bool = False


class ConversionReport(list[ReportRow]):
    """The rows of :func:`conversion_report`.

    Prints as a table, without the many convolutions that are not depthwise; those are counted.
    """

    def __str__(self) -> str:
        lines = [("module", "old class", "new class, or why it was left alone")]
        for row in self:
            if not row.reason.startswith(_NOT_DEPTHWISE):
                new = qualified_name(row.new_class) if row.new_class else row.reason
                lines.append((row.path or "(the model)", qualified_name(row.old_class), new))
        path_width, old_width = (max(len(line[i]) for line in lines) for i in (0, 1))
        table = [f"{path:<{path_width}}  {old:<{old_width}}  {new}" for path, old, new in lines]
        convolutions = [row for row in self if not row.is_block]
        counts = f"{_replaced(convolutions)} convolutions replaced"
        counts += f", {len(self) - len(lines) + 1} {_NOT_DEPTHWISE}"
        blocks = [row for row in self if row.is_block]
        return "\n".join(
            [*table, counts, *([f"{_replaced(blocks)} blocks replaced"] * bool(blocks))]
        )


def _replaced(rows: list[ReportRow]) -> str:
    return f"{sum(row.new_class is not None for row in rows)} of {len(rows)}"


def _is_convolution(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.conv._ConvNd):
        return True
    # Scripted and quantized convolutions share no base class with the others.
    name = getattr(module, "original_name", type(module).__name__)
    foreign = isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith(
        "torch.ao.nn"
    )
    return foreign and "Conv" in name and hasattr(module, "weight")


def _replacement(module: nn.Module) -> tuple[type[DepthwiseConv2d] | None, str]:
    """The class that can take the place of `module`, or None and the reason why none can."""
    name = qualified_name(type(module))
    groups, in_channels = getattr(module, "groups", None), getattr(module, "in_channels", None)
    # A lazy module has no channels yet; replacement_class says so.
    if groups is not None and not isinstance(module, nn.modules.lazy.LazyModuleMixin):
        if groups != in_channels:
            return None, f"{_NOT_DEPTHWISE}: groups is {groups}, in_channels {in_channels}"
        if groups == 1:
            # Depthwise by the letter, but libraries treat it as the dense convolution it also is.
            return None, f"{_NOT_DEPTHWISE}: one input channel; DepthwiseConv2d.from_conv takes it"
    if type(module).__module__.startswith("torch.ao.nn"):
        return None, f"quantized: effkern has no kernel for {name}"
    if isinstance(module, nn.modules.conv._ConvNd) and not isinstance(module, nn.Conv2d):
        return None, f"effkern has no kernel for {name}"
    try:
        return replacement_class(module), ""
    except (TypeError, ValueError) as error:
        return None, str(error)


def _block_obstacle(module: nn.Module) -> str:
    """Why a block of a class that effkern knows is left alone, or ""."""
    if module._compiled_call_impl is not None:
        return "got a module compiled with .compile(); convert before compiling"
    try:
        block_sources.check(module)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def convert(model: _Model, *, blocks: bool = True, inplace: bool = False) -> _Model:
    """Replaces depthwise convolutions by :class:`effkern.DepthwiseConv2d`, and blocks as a whole.

    Blocks are those that :class:`effkern.nn.MBConv`, :class:`effkern.nn.FusedMBConv` and
    :class:`effkern.nn.ConvNeXtBlock` can stand for. Outputs, parameters, state_dict keys, hooks,
    parametrizations and training mode stay the same. Each module keeps its identity and only
    changes its class, so a module used at several places, an optimizer and the handles of hooks
    stay valid. Convert before torch.compile, scripting and sharding. What is left alone, and why,
    is told by :func:`conversion_report`.

    Args:
        model: any module; it may be a convolution itself.
        blocks: also replace whole blocks, not only their depthwise convolutions.
        inplace: change `model` instead of a deep copy of it.

    Returns:
        The converted copy, or `model` itself if `inplace`.

    Raises:
        TypeError: `model` is no ``torch.nn.Module``.
    """
    model = _checked("convert", model, inplace)
    for module in list(model.modules()):
        if blocks and block_sources.block_class(module) and not _block_obstacle(module):
            block_sources.replace(module)
        if isinstance(module, DepthwiseConv2d) or not _is_convolution(module):
            continue
        replacement, _ = _replacement(module)
        if replacement is not None:
            source = unparametrized_class(module)
            become(module, replacement)
            vars(module)["_converted_from"] = source
    return model


def revert(model: _Model, *, inplace: bool = False) -> _Model:
    """Undoes :func:`convert`: each replaced module gets its old class back.

    So does each block that :class:`effkern.nn.MBConv` or the like stands for. A
    :class:`effkern.DepthwiseConv2d` that was built as one stays.

    Args:
        model: a converted module.
        inplace: change `model` instead of a deep copy of it.

    Returns:
        The reverted copy, or `model` itself if `inplace`.

    Raises:
        TypeError: `model` is no ``torch.nn.Module``.
    """
    model = _checked("revert", model, inplace)
    for module in list(model.modules()):
        if isinstance(module, block_sources.BLOCKS):
            block_sources.restore(module)
        if isinstance(module, DepthwiseConv2d) and module._converted_from is not None:
            become(module, module._converted_from)
            for name in ("_converted_from", "_resolved"):
                vars(module).pop(name, None)
    return model


def conversion_report(model: nn.Module) -> ConversionReport:
    """What :func:`convert` did to each convolution and block of `model`, or would do and why not.

    Returns:
        A list of :class:`ReportRow`, one for each path to a convolution or to a block of a class
        that effkern knows; ``print`` shows a table.

    Raises:
        TypeError: `model` is no ``torch.nn.Module``.
    """
    _checked("conversion_report", model, inplace=True)
    report = ConversionReport()
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, DepthwiseConv2d):
            if module._converted_from is None:
                row = ReportRow(path, type(module), None, "already effkern's")
            else:
                row = ReportRow(path, module._converted_from, type(module), "")
        elif _is_convolution(module):
            replacement, reason = _replacement(module)
            if replacement is not None:
                reason = f"not converted yet: effkern.convert makes it {replacement.__name__}"
            row = ReportRow(path, type(module), None, reason)
        elif isinstance(module, block_sources.BLOCKS):
            row = ReportRow(path, module._source_class, type(module), "", True)  # type: ignore[arg-type]
        elif (target := block_sources.block_class(module)) is not None:
            reason = _block_obstacle(module)
            reason = reason or f"not converted yet: effkern.convert makes it {target.__name__}"
            row = ReportRow(path, type(module), None, reason, True)
        else:
            continue
        report.append(row)
    return report


def _checked(function: str, model: _Model, inplace: bool) -> _Model:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"effkern.{function}: model: wanted a torch.nn.Module, got {type(model).__name__}"
        )
    return model if inplace else copy.deepcopy(model)
