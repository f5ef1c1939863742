"""Triton's interpreter several times as fast, and working with numpy 2.4.

An operation takes 200 microseconds, whatever the size of its tiles: shapes and types are made anew
for each, and all of triton.language is wrapped once more for each call of a device function. Here
they are made once, and the commonest operations on operands of one type go straight to numpy.
"""

from __future__ import annotations

import math
import operator
import types
from typing import Any

import numpy as np


def install() -> None:
    """Installs all of that in this process, for good: it can compile no kernel afterwards."""
    import triton.language as tl
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor
    numpy_dtype = interpreter._get_np_dtype
    dtypes: dict[str, np.dtype] = {}
    types_of: dict[tuple[int, ...], tuple[Any, int]] = {}
    shapes: dict[tuple[int, ...], tuple[Any, Any]] = {(): (tl.tuple([]), tl.constexpr(1))}

    def truth(self):
        return self.type.is_block() or bool(self.handle.data.item())

    def patch_lang_tensor(tensor, scope):
        patch_tensor(tensor, scope)
        # int() of an array of one element is an error since numpy 2.4.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        # `other` of one element that is zero is an `other` all the same.
        scope.set_attr(tensor, "__bool__", truth)

    def get_np_dtype(dtype):
        name = str(dtype.scalar if not isinstance(dtype, tl.pointer_type) else "pointer")
        if name not in dtypes:
            dtypes[name] = numpy_dtype(dtype)
        return dtypes[name]

    def tensor_init(self, handle, type):
        self.handle, self.type, self.dtype = handle, type, type.scalar
        shape = tuple(type.shape) if type.is_block() else ()
        if shape not in shapes:
            sizes = [tl.constexpr(size) for size in shape]
            shapes[shape] = tl.tuple(sizes), tl.constexpr(math.prod(shape))
        self.shape, self.numel = shapes[shape]

    def block_type_init(self, element_ty, shape):
        key = tuple(getattr(size, "value", size) for size in shape)
        if key not in types_of:
            block_type(self, element_ty, shape)
            types_of[key] = self.shape, self.numel
        self.element_ty = element_ty
        self.shape, self.numel = types_of[key]
        self.name = f"<{key}, {element_ty}>"

    def broadcast(self, left, right):
        if left.type.is_block() and right.type.is_block():
            if left.type.shape is right.type.shape:
                return left, right
        return broadcast_values(self, left, right)

    semantic = interpreter.TritonSemantic
    broadcast_values, semantic.broadcast_impl_value = semantic.broadcast_impl_value, broadcast
    block_type, tl.block_type.__init__ = tl.block_type.__init__, block_type_init
    interpreter._patch_lang_tensor = patch_lang_tensor
    interpreter._get_np_dtype = get_np_dtype
    tl.tensor.__init__ = tensor_init

    # The interpreter wraps all of triton.language for each launch, and once more for each call of a
    # device function, which it never takes back. Once is enough: this process only interprets.
    everything = types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    interpreter._patch_lang(everything)
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()
    _shorten_operators(tl, interpreter)


def _shorten_operators(tl: Any, interpreter: Any) -> None:
    """Arithmetic and comparison of numbers with 32 or 64 bits of one type, without promotions."""
    integers = {"int32", "int64"}
    numbers = {"fp32", "fp64"} | integers
    handle = interpreter.TensorHandle

    def shortened(name, function, of, result=None):
        general = getattr(tl.tensor, name)

        def method(self, other):
            kind = self.dtype
            if kind.name not in of or interpreter.interpreter_builder.options.sanitize_overflow:
                return general(self, other)
            block = self.type
            if isinstance(other, tl.tensor):
                if other.dtype != kind:
                    return general(self, other)
                value = other.handle.data
                if other.type.is_block():
                    if not block.is_block():
                        block = other.type
                    elif len(block.shape) != len(other.type.shape):
                        return general(self, other)
                    elif block.shape is not other.type.shape:
                        block = None
            elif type(other) is int or (type(other) is float and kind.name not in integers):
                value = other
            else:
                return general(self, other)
            data = function(self.handle.data, value)
            kind = result or kind
            if block is None:
                block = tl.block_type(kind, list(data.shape))
            elif result is not None:
                block = tl.block_type(kind, block.shape) if block.is_block() else kind
            return tl.tensor(handle(data, kind), block)

        setattr(tl.tensor, name, method)

    for name in ("add", "sub", "mul"):
        function = getattr(operator, name)
        shortened(f"__{name}__", function, numbers)
        shortened(f"__r{name}__", lambda a, b, function=function: function(b, a), numbers)
    for name in ("lt", "le", "gt", "ge"):
        shortened(f"__{name}__", getattr(operator, name), numbers, tl.int1)
    for name in ("and", "or"):
        shortened(f"__{name}__", getattr(operator, f"{name}_"), {"int1"})
