"""Which squeeze-and-excitation modules mbconv computes, and their parts."""

from __future__ import annotations

from typing import Any

from torch import nn

from .convnext_block_sources import activation_name, is_class

_TIMM = "timm.models._efficientnet_blocks"
_GATES = {"Sigmoid": "sigmoid", "Hardsigmoid": "hardsigmoid", "HardSigmoid": "hardsigmoid"}


def _parts(se: Any) -> tuple[Any, Any, Any, Any] | None:
    """Reduction, expansion, activation and gate of a module that is known."""
    cls = type(se)
    if is_class(cls, _TIMM, "SqueezeExcite"):
        return se.conv_reduce, se.conv_expand, se.act1, se.gate
    if is_class(cls, "timm.layers.squeeze_excite", "SEModule"):
        plain = not se.add_maxpool and type(se.bn) is nn.Identity
        return (se.fc1, se.fc2, se.act, se.gate) if plain else None
    if is_class(cls, "torchvision.ops.misc", "SqueezeExcitation"):
        return se.fc1, se.fc2, se.activation, se.scale_activation
    return None


def _gate(module: nn.Module) -> str | None:
    cls = type(module)
    for name, gate in _GATES.items():
        if cls is getattr(nn, name, None) or is_class(cls, "timm.layers.activations", name):
            return gate
    return None


def se_arguments(se: Any) -> tuple[Any, ...] | None:
    """The argument `se` of mbconv; None if the module is not one that mbconv computes."""
    found = _parts(se)
    if found is None:
        return None
    reduce, expand, activation, gate = found
    names = activation_name(activation), _gate(gate)
    if None in names or not all(type(layer) is nn.Conv2d for layer in (reduce, expand)):
        return None
    return reduce.weight, reduce.bias, expand.weight, expand.bias, *names
