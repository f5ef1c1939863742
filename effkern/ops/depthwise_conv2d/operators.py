"""Which operators carry which backend of depthwise_conv2d.

The three operators (forward, backward, activation backward) exist once per carrier, with the same
schemas and a `backend` argument each. Fakes, autograd, vmap and autocast rules are written once, in
`registration` and `autograd`, and look their operators up here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._ops import OpOverload

from ... import _library
from ...registry import BACKENDS
from . import triton_operators

FORWARD = "depthwise_conv2d"
BACKWARD = "depthwise_conv2d_backward"
ACTIVATION_BACKWARD = "depthwise_conv2d_activation_backward"
NAMES = (FORWARD, BACKWARD, ACTIVATION_BACKWARD)


class Operators(NamedTuple):
    """The operators of one carrier: `torch.ops.<namespace>.<name><suffix>`.

    The lean ones are the twins with a leading underscore. They have no autograd of their own: an
    autograd.Function around them costs a third of torch.library.register_autograd per call.
    """

    lean_forward: OpOverload
    lean_backward: OpOverload
    lean_activation_backward: OpOverload
    public_forward: OpOverload
    public_backward: OpOverload
    public_activation_backward: OpOverload
    namespace: str
    suffix: str


def find(namespace: str, suffix: str = "") -> Operators:
    """The operators named so; AttributeError if one of them is not registered."""
    scope = getattr(torch.ops, namespace)
    overloads = [
        getattr(scope, f"{prefix}{name}{suffix}").default for prefix in ("_", "") for name in NAMES
    ]
    return Operators._make([*overloads, namespace, suffix])


def _by_backend() -> tuple[Operators, ...]:
    # The native operators refuse, with a reason, the backends that they do not have.
    table = dict.fromkeys(BACKENDS.values(), find("effkern"))
    if _library.emulation_available():
        table[BACKENDS["cuda_emulated"]] = find("effkern_emulated")
    triton_operators.define(NAMES)
    for name in ("triton", "triton_interpreted"):
        table[BACKENDS[name]] = find("effkern", triton_operators.SUFFIX)
    return tuple(table[code] for code in range(len(table)))


# By the integer of the backend. Read once per call; a constant for torch.compile.
BY_BACKEND: tuple[Operators, ...] = _by_backend()

# Each of them once.
CARRIERS: tuple[Operators, ...] = tuple(dict.fromkeys(BY_BACKEND))
