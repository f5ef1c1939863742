"""Folding BatchNorm into the convolutions before it, for inference."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .conversion import _checked
from .nn.depthwise_conv2d_sources import known_class, qualified_name
from .nn.folded_batch_norm import FoldedBatchNorm

_Model = TypeVar("_Model", bound=nn.Module)
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Their forward is batch_norm, then their children `drop` and `act`, if they have them.
_KNOWN = {
    "timm.layers.norm_act": ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d"),
    "torchvision.ops.misc": ("FrozenBatchNorm2d",),
}
_CHILDREN = {"drop", "act"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class FoldingRow:
    """One BatchNorm of a model.

    Attributes:
        path: its name in ``model.named_modules()``.
        convolution: the convolution that it is folded into, or would be; None if there is none.
        folded: whether that has been done.
        reason: why it has not, or "".
    """

    path: str
    convolution: str | None
    folded: bool
    reason: str


class FoldingReport(list[FoldingRow]):
    """The rows of :func:`folding_report`; prints as a table."""

    def __str__(self) -> str:
        lines = [("batch norm", "folded into, or why it is not")]
        lines += [(row.path, (row.reason or row.convolution or "")) for row in self]
        width = max(len(path) for path, _ in lines)
        folded = sum(row.folded for row in self)
        counts = f"{folded} of {len(self)} folded"
        return "\n".join([*(f"{path:<{width}}  {text}" for path, text in lines), counts])


def _is_batch_norm(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.modules.batchnorm._NormBase)
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
        or _is_known(type(module))
    )


def _is_known(cls: type) -> bool:
    package = sys.modules.get(cls.__module__)
    known = cls.__qualname__ in _KNOWN.get(cls.__module__, ())
    return known and getattr(package, cls.__qualname__, None) is cls


class _Tracer(fx.Tracer):
    """Records the modules that hold no BatchNorm as one node each, whatever they do inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_batch_norm(m) or not any(_is_batch_norm(child) for child in m.modules())


@dataclass
class _Use:
    """How a traced forward uses a BatchNorm: the paths of what feeds it, or why that is unclear."""

    convolution: str | None
    reason: str


def _trace(module: nn.Module) -> fx.Graph:
    # A placeholder is not None, so what is optional must not become one.
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return _Tracer().trace(module, concrete_args=defaults or None)


def _uses(model: nn.Module, path: str, uses: dict[str, _Use]) -> None:
    """Fills `uses` for every BatchNorm below `path`."""
    module = model.get_submodule(path)
    inside = [
        f"{path}.{name}".strip(".") for name, m in module.named_modules() if _is_batch_norm(m)
    ]
    if not inside or _is_batch_norm(module):
        uses.update((name, _Use(None, "nothing comes before it in the model")) for name in inside)
        return
    try:
        graph = _trace(module)
    except Exception as error:  # noqa: BLE001 - a forward may raise anything when it is traced
        reason = f"torch.fx cannot trace {path or 'the model'}: {str(error).splitlines()[0]}"
        uses.update((name, _Use(None, reason)) for name in inside)
        for name, child in module.named_children():
            optional = inspect.signature(child.forward).parameters.values()
            # Of what is passed for an optional argument, a trace of the child knows nothing.
            if not _is_batch_norm(child) and all(p.default is p.empty for p in optional):
                _uses(model, f"{path}.{name}".strip("."), uses)
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    touched = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in inside:
        uses[name] = _Use(None, "the forward does not call it")
    for node in graph.nodes:
        if node.op != "call_module" or f"{path}.{node.target}".strip(".") not in inside:
            continue
        use = _use(module, node, calls, touched)
        if use.convolution is not None:
            use.convolution = f"{path}.{use.convolution}".strip(".")
        uses[f"{path}.{node.target}".strip(".")] = use


def _use(module: nn.Module, node: fx.Node, calls: Counter[Any], touched: set[str]) -> _Use:
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return _Use(None, "its input is not the output of a convolution")
    name = str(source.target)
    convolution = module.get_submodule(name)
    if not isinstance(convolution, nn.modules.conv._ConvNd):
        cls = qualified_name(type(convolution))
        return _Use(None, f"its input is the output of {name}, a {cls}")
    if calls[source.target] > 1 or calls[node.target] > 1:
        return _Use(name, "it or the convolution is called more than once")
    if len(source.users) > 1:
        return _Use(name, f"the output of {name} is used elsewhere as well")
    if any(attribute.startswith((f"{name}.", f"{node.target}.")) for attribute in touched):
        return _Use(name, "the forward uses parameters of it or of the convolution by themselves")
    return _Use(name, "")


def _obstacle(batch_norm: nn.Module, convolution: Any) -> str:
    """Why the two cannot become one, or ""."""
    for module in (batch_norm, convolution):
        if any(vars(module).get(hooks) for hooks in _HOOKS):
            return f"the {qualified_name(type(module))} has hooks"
        if parametrize.is_parametrized(module):
            return f"the {qualified_name(type(module))} is parametrized"
        if "forward" in vars(module) or "_conv_forward" in vars(module):
            return f"the forward of the {qualified_name(type(module))} was replaced"
    cls = type(batch_norm)
    if not (cls in _PLAIN or _is_known(cls)) or {*dict(batch_norm.named_children())} - _CHILDREN:
        return f"effkern does not know the forward of {qualified_name(cls)}"
    frozen = not isinstance(batch_norm, nn.modules.batchnorm._BatchNorm)
    if batch_norm.training and not frozen:
        return "it is in training mode: call model.eval() first"
    if batch_norm.running_mean is None or batch_norm.running_var is None:
        return "it has no running statistics"
    if type(convolution) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        try:
            known_class(convolution)
        except TypeError:
            name = qualified_name(type(convolution))
            return f"effkern does not know the forward of {name}"
    if not convolution.weight.is_floating_point():
        return f"the convolution's weight is {convolution.weight.dtype}"
    return ""


def _rows(model: nn.Module) -> FoldingReport:
    uses: dict[str, _Use] = {}
    _uses(model, "", uses)
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    report = FoldingReport()
    for path, module in model.named_modules():
        if isinstance(module, FoldedBatchNorm):
            report.append(FoldingRow(path, module.convolution, True, ""))
        if path not in uses:
            continue
        convolution, reason = uses[path].convolution, uses[path].reason
        if convolution is not None and not reason:
            source = model.get_submodule(convolution)
            reason = _obstacle(module, source)
            if not reason and max(places[id(module)], places[id(source)]) > 1:
                reason = "it or the convolution is used at several places of the model"
        report.append(FoldingRow(path, convolution, False, reason))
    return report


def _fold(batch_norm: Any, convolution: Any) -> None:
    """Gives `convolution` the weight and bias that include `batch_norm`."""

    def wide(tensor: torch.Tensor | None) -> torch.Tensor | None:
        # One rounding, to the convolution's dtype.
        return None if tensor is None else tensor.detach().double()

    weight, bias = fuse_conv_bn_weights(
        wide(convolution.weight),  # type: ignore[arg-type]
        wide(convolution.bias),
        wide(batch_norm.running_mean),  # type: ignore[arg-type]
        wide(batch_norm.running_var),  # type: ignore[arg-type]
        batch_norm.eps,
        wide(batch_norm.weight),
        wide(batch_norm.bias),
    )
    old = convolution.weight
    memory_format = torch.preserve_format
    folded = weight.detach().to(old.dtype)
    convolution.weight = nn.Parameter(
        torch.empty_like(old, memory_format=memory_format).copy_(folded), old.requires_grad
    )
    convolution.bias = nn.Parameter(bias.detach().to(old.dtype), old.requires_grad)


def fold_batch_norm(model: _Model, *, inplace: bool = False) -> _Model:
    """Folds each BatchNorm in eval mode into the convolution before it.

    The convolution gets the weight ``w * gamma / sqrt(running_var + eps)`` and the matching bias,
    computed in float64 and rounded once to the convolution's dtype; where the BatchNorm was, a
    module applies the activation it had, if any. Names of modules stay; the keys of the BatchNorm
    leave the state_dict, and the convolution has a bias. For inference: gradients of the folded
    parameters are not those of the originals.

    A BatchNorm is folded if torch.fx finds that its only input is the output of a convolution that
    nothing else uses. All others stay as they are; :func:`folding_report` tells why.

    Args:
        model: any module, in eval mode.
        inplace: change `model` instead of a deep copy of it.

    Returns:
        The folded copy, or `model` itself if `inplace`.

    Raises:
        TypeError: `model` is no ``torch.nn.Module``.
    """
    model = _checked("fold_batch_norm", model, inplace)
    for row in _rows(model):
        if row.folded or row.reason or row.convolution is None:
            continue
        batch_norm = model.get_submodule(row.path)
        _fold(batch_norm, model.get_submodule(row.convolution))
        parent, _, name = row.path.rpartition(".")
        model.get_submodule(parent).add_module(name, FoldedBatchNorm(batch_norm, row.convolution))
    return model


def folding_report(model: nn.Module) -> FoldingReport:
    """What :func:`fold_batch_norm` did to each BatchNorm of `model`, or why it leaves it alone.

    Returns:
        A list of :class:`FoldingRow`, one for each BatchNorm; ``print`` shows a table.

    Raises:
        TypeError: `model` is no ``torch.nn.Module``.
    """
    rows = _rows(_checked("folding_report", model, inplace=True))
    return FoldingReport(
        row
        if row.folded or row.reason
        else FoldingRow(
            row.path,
            row.convolution,
            False,
            f"not folded yet: effkern.fold_batch_norm folds it into {row.convolution}",
        )
        for row in rows
    )
