"""Activations that ONNX 17 spells out in several nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx


@dataclass(frozen=True)
class Nodes:
    """The nodes of a model by the value that they compute, and the values of its constants."""

    producers: dict[str, onnx.NodeProto]
    constants: dict[str, np.ndarray]

    def inputs(self, name: str | None, operator: str) -> Sequence[str]:
        """Of the node that computes a value; none if that is another operator."""
        node = self.producers.get(name)
        return node.input if node is not None and node.op_type == operator else ()

    def other(self, name: str | None, operator: str, value: float) -> str | None:
        """The operand that an operator combines with this constant; None if it does not."""
        found = list(self.inputs(name, operator))
        for i, constant in enumerate(found):
            # A constant over x is no quotient of x.
            if operator == "Div" and i == 0:
                continue
            given = self.constants.get(constant)
            if (
                given is not None
                and given.size == 1
                and math.isclose(given.item(), value, rel_tol=1e-6)
            ):
                return found[1 - i]
        return None


def silu_of(nodes: Nodes, name: str) -> str | None:
    """x of a value x * sigmoid(x); None if it is something else."""
    factors = nodes.inputs(name, "Mul")
    return next(
        (
            x
            for x, gate in zip(factors, reversed(factors), strict=True)
            if list(nodes.inputs(gate, "Sigmoid")) == [x]
        ),
        None,
    )


def gelu_of(nodes: Nodes, name: str) -> str | None:
    """x of a value x * (erf(x / sqrt(2)) + 1) * 0.5; None if it is something else."""
    factors = nodes.inputs(nodes.other(name, "Mul", 0.5), "Mul")
    for x, gate in zip(factors, reversed(factors), strict=True):
        (argument,) = nodes.inputs(nodes.other(gate, "Add", 1), "Erf") or (None,)
        if nodes.other(argument, "Div", math.sqrt(2)) == x:
            return x
    return None
