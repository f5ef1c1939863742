"""The arguments of depthwise_conv2d as the flat integers of the operators' schemas."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

# stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, activation
Params: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]

# The values are part of the operators' schemas; csrc/depthwise_conv2d/depthwise_conv2d.h has the
# same table.
ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "relu": 1,
    "relu6": 2,
    "silu": 3,
    "gelu": 4,
    "gelu_tanh": 5,
    "hardswish": 6,
}

_NAME = "effkern.depthwise_conv2d"
_INT64_MAX = 2**63 - 1


def code_of(name: str, argument: str, value: Any, table: Mapping[Any, int]) -> int:
    """The integer that stands for a word in the operators' schemas; `name` is the function.

    Raises:
        TypeError: it is no str.
        ValueError: it is not in the table.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}: {argument}: wanted None or a str, got {type(value).__name__}")
    if value not in table:
        known = ", ".join(repr(word) for word in table)
        raise ValueError(f"{name}: {argument}: wanted one of {known}, got {value!r}")
    return table[value]


def _is_int(value: Any) -> bool:
    if type(value) is int or isinstance(value, torch.SymInt):
        return True
    # numpy integers count, as they do for torch; bool does not.
    return not isinstance(value, (bool, float, torch.Tensor)) and hasattr(value, "__index__")


def _pair(name: str, value: Any) -> tuple[int, int]:
    if type(value) is int:
        return value, value
    if _is_int(value):
        value = (value,)
    if not isinstance(value, (tuple, list)) or not all(_is_int(v) for v in value):
        got = value if isinstance(value, (tuple, list)) else f"{type(value).__name__} {value!r}"
        raise TypeError(f"{_NAME}: {name}: wanted an int or a pair of ints, got {got}")
    if len(value) == 1:
        return value[0], value[0]
    if len(value) != 2:
        raise RuntimeError(f"{_NAME}: {name}: wanted an int or 2 values, got {list(value)}")
    return value[0], value[1]


def _at_least(name: str, pair: tuple[int, int], least: int) -> None:
    for value in pair:
        if value < least:
            raise RuntimeError(f"{_NAME}: {name}: wanted values >= {least}, got {list(pair)}")
        if not isinstance(value, torch.SymInt) and value > _INT64_MAX:
            raise ValueError(f"{_NAME}: {name}: wanted values below 2**63, got {list(pair)}")


def _same(kernel: int, dilation: int) -> tuple[int, int]:
    total = dilation * (kernel - 1)
    # An odd total pads one more at the end, as torch does.
    return total // 2, total - total // 2


def _is_pair_of_pairs(padding: Any) -> bool:
    return (
        isinstance(padding, (tuple, list))
        and len(padding) == 2
        and all(isinstance(side, (tuple, list)) for side in padding)
    )


def resolve(
    kernel_size: tuple[int, int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    activation: str | None = None,
) -> Params:
    """Checks and flattens the arguments of :func:`effkern.functional.depthwise_conv2d`.

    Raises:
        TypeError: a value that is no int, or an activation that is no str.
        RuntimeError: a value out of range, a wrong number of values, an unknown padding string, or
            "same" with a stride, as ``torch.nn.functional.conv2d`` raises for them.
        ValueError: an unknown activation.
    """
    stride = _pair("stride", stride)
    dilation = _pair("dilation", dilation)
    _at_least("stride", stride, 1)
    _at_least("dilation", dilation, 1)
    if isinstance(padding, str):
        if padding == "valid":
            vertical = horizontal = (0, 0)
        elif padding != "same":
            raise RuntimeError(f"{_NAME}: padding: wanted 'same' or 'valid', got {padding!r}")
        elif stride != (1, 1):
            raise RuntimeError(
                f"{_NAME}: padding: 'same' wants stride 1, got stride {list(stride)}"
            )
        else:
            vertical = _same(kernel_size[0], dilation[0])
            horizontal = _same(kernel_size[1], dilation[1])
    elif _is_pair_of_pairs(padding):
        vertical, horizontal = _pair("padding", padding[0]), _pair("padding", padding[1])
    else:
        pair = _pair("padding", padding)
        vertical, horizontal = (pair[0], pair[0]), (pair[1], pair[1])
    _at_least("padding", vertical, 0)
    _at_least("padding", horizontal, 0)
    code = code_of(_NAME, "activation", activation, ACTIVATIONS)
    return (*stride, *vertical, *horizontal, *dilation, code)


def _is_plain(value: Any) -> bool:
    """Whether it is an int or a pair of them, and no type that compares equal to one."""
    kind = type(value)
    return kind is int or (
        kind is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int
    )


@functools.lru_cache(maxsize=1024)
def _resolve_cached(stride: Any, padding: Any, dilation: Any, activation: str | None) -> Params:
    # The kernel's size matters to padding="same" only.
    return resolve((1, 1), stride, padding, dilation, activation)


def resolve_plain(
    stride: Any, padding: Any, dilation: Any, activation: str | None
) -> Params | None:
    """`resolve` from a cache, where the arguments are ints or pairs of them; None where they are
    not. Resolving anew takes longer than a small convolution."""
    if (
        _is_plain(stride)
        and _is_plain(padding)
        and _is_plain(dilation)
        and (activation is None or type(activation) is str)
    ):
        return _resolve_cached(stride, padding, dilation, activation)
    return None


def resolve_for(
    name: str, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, activation: Any
) -> Params:
    """`resolve` for the kernel of `weight`, with errors in the name of another function."""
    try:
        plain = None
        if not torch.compiler.is_compiling():
            plain = resolve_plain(stride, padding, dilation, activation)
        if plain is not None:
            return plain
        kernel_h, kernel_w = weight.shape[-2:]
        return resolve((kernel_h, kernel_w), stride, padding, dilation, activation)
    except (RuntimeError, TypeError, ValueError) as error:
        raise type(error)(str(error).replace(_NAME, name, 1)) from None
