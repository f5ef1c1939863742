"""Integer instructions of NVIDIA GPUs on arrays of lanes: unsigned 64-bit arrays that hold 32 bits.

What address and control-flow arithmetic consists of, from sm_80 to sm_90. Sources: the CUDA binary
utilities' list of instructions, and the code that nvcc makes of known expressions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Lanes, or one value for all of them.
Value = Any
WORD = np.uint64(0xFFFFFFFF)
_BITS = np.uint64(32)


def word(number: int) -> np.uint64:
    """The 32 bits of a number, of either sign."""
    return np.uint64(number & 0xFFFFFFFF)


def signed(value: Value) -> Value:
    return np.asarray(value).astype(np.uint32).astype(np.int32).astype(np.int64)


def unsigned(value: Value) -> Value:
    """The 32 bits of a signed result."""
    return np.asarray(value).astype(np.uint64) & WORD


def negated(value: Value) -> Value:
    """Two's complement, with its carry: 2**32 for zero."""
    return (value ^ WORD) + np.uint64(1)


def multiply(a: Value, b: Value, *, is_signed: bool) -> Value:
    """The 64-bit product."""
    if is_signed:
        return (signed(a) * signed(b)).astype(np.uint64)
    return a * b


def shift(modifiers: tuple[str, ...], low: Value, count: Value, high: Value) -> Value:
    """SHF: a funnel shift of high:low, or of one of them."""
    count = count & np.uint64(0xFF)
    pair = low | (high << _BITS)
    if "L" in modifiers:
        wide = np.where(count < 64, pair << np.minimum(count, np.uint64(63)), np.uint64(0))
        return wide >> _BITS if "HI" in modifiers else wide & WORD
    count = np.minimum(count, np.uint64(63))
    if "HI" not in modifiers:
        return (pair >> count) & WORD
    if "S32" in modifiers:
        return unsigned(signed(high) >> np.minimum(count, np.uint64(31)).astype(np.int64))
    if "U32" in modifiers:
        return high >> count
    return (pair >> count) >> _BITS


def scaled_high(
    modifiers: tuple[str, ...], low: Value, addend: Value, high: Value, count: int
) -> Value:
    """LEA.HI: the upper half of high:low << count, plus addend."""
    if "SX32" in modifiers:
        top = unsigned((signed(low) << count) >> 32)
    else:
        top = ((low | (high << _BITS)) << np.uint64(count)) >> _BITS
    return top + addend


def compare(modifiers: tuple[str, ...], a: Value, b: Value, low: Value | None) -> Value:
    """ISETP; `low` is the result of the lower halves in a comparison of 64 bits (.EX)."""
    if "U32" not in modifiers:
        a, b = signed(a), signed(b)
    name = modifiers[0]
    if low is None:
        results = {
            "EQ": a == b, "NE": a != b, "LT": a < b, "LE": a <= b, "GT": a > b, "GE": a >= b,
        }  # fmt: skip
        return results[name]
    if name == "NE":
        return (a != b) | low
    beyond = {"EQ": False, "LT": a < b, "LE": a < b, "GT": a > b, "GE": a > b}
    return beyond[name] | ((a == b) & low)


def combine(modifiers: tuple[str, ...], a: Value, b: Value) -> Value:
    """The logic of a comparison's result with its last operand."""
    return a & b if "AND" in modifiers else a | b if "OR" in modifiers else a ^ b


def lookup(table: int, a: Value, b: Value, c: Value, ones: Any) -> Value:
    """LOP3 and PLOP3: bit by bit entry 4 a + 2 b + c of the table."""
    result = a & ~ones
    for i in range(8):
        if table >> i & 1:
            x, y, z = (
                v if i >> k & 1 else v ^ ones for v, k in zip((a, b, c), (2, 1, 0), strict=True)
            )
            result = result | (x & y & z)
    return result


def permute(low: Value, selector: Value, high: Value) -> Value:
    """PRMT: four bytes of high:low, chosen by four nibbles."""
    pair, result = low | (high << _BITS), np.uint64(0)
    for i in range(4):
        nibble = (selector >> np.uint64(4 * i)) & np.uint64(0xF)
        byte = (pair >> ((nibble & np.uint64(7)) * np.uint64(8))) & np.uint64(0xFF)
        sign = np.where(byte >> np.uint64(7), np.uint64(0xFF), np.uint64(0))
        byte = np.where(nibble >> np.uint64(3), sign, byte)
        result = result | (byte << np.uint64(8 * i))
    return result


def to_float(modifiers: tuple[str, ...], low: Value, high: Value) -> Value:
    """I2F.RP: the bits of the least float32 that is not below the integer."""
    if "U64" in modifiers:
        exact = low | (high << _BITS)
    else:
        exact = low if "U32" in modifiers else signed(low)
    value = np.asarray(exact).astype(np.float32)
    too_low = value.astype(np.float64) < np.asarray(exact).astype(np.float64)
    return float_bits(np.where(too_low, np.nextafter(value, np.float32(np.inf)), value))


def float_bits(value: Value) -> Value:
    return np.asarray(value, np.float32).view(np.uint32).astype(np.uint64)


def as_float(bits: Value) -> Value:
    return np.atleast_1d(np.asarray(bits)).astype(np.uint32).view(np.float32)


def reciprocal(bits: Value) -> Value:
    with np.errstate(all="ignore"):
        return float_bits(np.float32(1) / as_float(bits))


def truncate(bits: Value) -> Value:
    """F2I: a whole number of up to 64 bits."""
    with np.errstate(invalid="ignore"):
        value = np.nan_to_num(as_float(bits).astype(np.float64), posinf=2.0**63)
        return np.clip(value, 0, 2.0**63).astype(np.uint64)
