"""The registers of many lanes, and the instructions of address and control-flow arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import sass_operations as ops
from .sass_decoder import Address, following, is_predicate
from .sass_program import Instruction

_REGISTER = re.compile(r"([-~]?)(U?R(?:\d+|Z))\b")
_CONSTANT = re.compile(r"([-~]?)c\[0x0\]\[(0x[0-9a-f]+|RZ)\]")
_HIGH = np.uint64(32)


@cache
def _parse(operand: str) -> tuple[str, str, int]:
    """(sign, register, 0), (sign, "c", offset) or ("", "", number)."""
    if match := _REGISTER.match(operand):
        return match[1], match[2], 0
    if match := _CONSTANT.match(operand):
        return match[1], "c", 0 if match[2] == "RZ" else int(match[2], 16)
    return "", "", int(operand, 0)


class Lanes:
    """Registers and predicates; registers hold 32 bits in 64."""

    def __init__(self, count: int, bank: bytes, special: dict[str, Any]) -> None:
        """Args: bank: constant bank 0. special: registers such as SR_TID.X."""
        self._count, self._bank, self.special = count, bank, special
        self._registers: dict[str, Any] = {}
        self._predicates: dict[str, Any] = {}
        self._zero = np.uint64(0)
        self._true = np.ones(count, bool)

    def register(self, name: str) -> Any:
        if name.endswith("Z"):
            return self._zero
        value = self._registers.get(name)
        if value is None:
            value = self._registers[name] = np.zeros(self._count, np.uint64)
        return value

    def pair(self, name: str) -> Any:
        if name.endswith("Z"):
            return self._zero
        return self.register(name) | (self.register(following(name)) << _HIGH)

    def predicate(self, operand: str) -> Any:
        name = operand.lstrip("!")
        value = self._true if name.endswith("T") else self._predicates.get(name)
        if value is None:
            value = self._predicates[name] = np.zeros(self._count, bool)
        return ~value if operand.startswith("!") else value

    def value(self, operand: str, wide: bool = False) -> Any:
        """Of a register, a constant or a number, of 32 bits or `wide`; with a minus, as two's
        complement with its carry."""
        sign, name, number = _parse(operand)
        if name == "c":
            data = self._bank[number : number + (8 if wide else 4)]
            value = np.uint64(int.from_bytes(data, "little"))
        elif name:
            value = self.pair(name) if wide else self.register(name)
        else:
            return np.uint64(number & (2**64 - 1 if wide else 2**32 - 1))
        return ops.negated(value) if sign == "-" else value ^ ops.WORD if sign == "~" else value

    def address(self, address: Address) -> Any:
        total = np.full(self._count, address.offset & (2**64 - 1), np.uint64)
        if address.register:
            total += (self.pair if address.wide else self.register)(address.register)
        if address.uniform:
            total += (self.pair if address.wide else self.register)(address.uniform)
        return total

    def write(self, name: str, value: Any, mask: Any) -> None:
        if not name.endswith("Z"):
            np.copyto(self.register(name), value & ops.WORD, where=mask)

    def write_pair(self, name: str, value: Any, mask: Any) -> None:
        value = np.asarray(value)
        self.write(name, value, mask)
        self.write(following(name), value >> _HIGH, mask)

    def write_predicate(self, name: str, value: Any, mask: Any) -> None:
        if not name.endswith("T"):
            np.copyto(self.predicate(name), value, where=mask)


@cache
def _split(instruction: Instruction) -> tuple[list[str], list[str], list[str]]:
    """Result and carries, sources, carries taken in; not to be changed."""
    operands = list(instruction.operands)
    results = [operands.pop(0)]
    while operands and is_predicate(operands[0]):
        results.append(operands.pop(0))
    taken: list[str] = []
    while operands and is_predicate(operands[-1]):
        taken.insert(0, operands.pop())
    return results, operands, taken


def _add_carries(lanes: Lanes, total: Any, taken: list[str]) -> Any:
    for operand in taken:
        total = total + lanes.predicate(operand).astype(np.uint64)
    return total


def _write_sum(lanes: Lanes, results: list[str], total: Any, mask: Any) -> None:
    for i, name in enumerate(results[1:], 1):
        lanes.write_predicate(name, total >= np.uint64(i << 32), mask)
    lanes.write(results[0], total, mask)


def _move(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, source = instruction.operands[0], instruction.operands[1]
    if source.startswith("SR"):
        value = lanes.special.get(source, np.uint64(0))
        (lanes.write_pair if instruction.name == "CS2R" else lanes.write)(result, value, mask)
    elif "64" in instruction.modifiers:
        lanes.write_pair(result, lanes.value(source, wide=True), mask)
    else:
        value = lanes.value(source)
        size = {"U8": 0xFF, "U16": 0xFFFF}.get((*instruction.modifiers, "")[0], 0xFFFFFFFF)
        lanes.write(result, value & np.uint64(size), mask)


def _add(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    results, sources, taken = _split(instruction)
    total = sum((lanes.value(source) for source in sources), np.uint64(0))
    # Carries are only taken in where the name says so; others are always false.
    _write_sum(lanes, results, _add_carries(lanes, total, taken), mask)


def _multiply_add(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    modifiers = instruction.modifiers
    results, (a, b, c), taken = _split(instruction)
    is_signed = "U32" not in modifiers
    if "WIDE" in modifiers or "HI" in modifiers:
        low_a, low_b = lanes.value(a) & ops.WORD, lanes.value(b) & ops.WORD
        product = ops.multiply(low_a, low_b, is_signed=is_signed)
        addend = lanes.value(c, wide=True)
        total = product + addend
        if "HI" in modifiers:
            lanes.write(results[0], total >> _HIGH, mask)
            return
        for name in results[1:]:
            lanes.write_predicate(name, total < addend, mask)
        lanes.write_pair(results[0], _add_carries(lanes, total, taken), mask)
        return
    product = (lanes.value(a) & ops.WORD) * (lanes.value(b) & ops.WORD) & ops.WORD
    _write_sum(lanes, results, _add_carries(lanes, product + lanes.value(c), taken), mask)


def _scaled_add(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    results, sources, taken = _split(instruction)
    count = int(sources[-1], 0)
    low, addend = lanes.value(sources[0]) & ops.WORD, lanes.value(sources[1])
    if "HI" in instruction.modifiers:
        high = lanes.value(sources[2]) if len(sources) == 4 else np.uint64(0)
        total = ops.scaled_high(instruction.modifiers, low, addend, high & ops.WORD, count)
    else:
        total = ((low << np.uint64(count)) & ops.WORD) + addend
    _write_sum(lanes, results, _add_carries(lanes, total, taken), mask)


def _logic(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    operands = list(instruction.operands)
    predicate = operands.pop(0) if is_predicate(operands[0]) else None
    a, b, c = (lanes.value(operand) & ops.WORD for operand in operands[1:4])
    value = ops.lookup(int(operands[4], 16), a, b, c, ops.WORD)
    lanes.write(operands[0], value, mask)
    if predicate:
        lanes.write_predicate(predicate, value != 0, mask)


def _predicate_logic(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    first, second, *sources = instruction.operands
    a, b, c = (lanes.predicate(source) for source in sources[:3])
    for name, table in zip((first, second), sources[3:], strict=True):
        value = ops.lookup(int(table, 16), a, b, c, np.True_)
        lanes.write_predicate(name, value, mask)


def _shift(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, *sources = instruction.operands
    values = [lanes.value(source) & ops.WORD for source in sources]
    lanes.write(result, ops.shift(instruction.modifiers, *values), mask)


def _compare(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    first, second, a, b, *rest = instruction.operands
    low = lanes.predicate(rest[1]) if "EX" in instruction.modifiers else None
    found = ops.compare(instruction.modifiers, lanes.value(a) & ops.WORD,
                        lanes.value(b) & ops.WORD, low)  # fmt: skip
    other = lanes.predicate(rest[0])
    value = ops.combine(instruction.modifiers, found, other)
    opposite = ops.combine(instruction.modifiers, ~found, other)
    lanes.write_predicate(first, value, mask)
    lanes.write_predicate(second, opposite, mask)


def _select(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, a, b, predicate = instruction.operands
    value = np.where(lanes.predicate(predicate), lanes.value(a), lanes.value(b))
    lanes.write(result, value, mask)


def _minimum(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, *sources, predicate = instruction.operands
    a, b = lanes.value(sources[0]), lanes.value(sources[-1]) & ops.WORD
    if len(sources) == 3:
        a = a + lanes.value(sources[1])
    a = a & ops.WORD
    less = a < b if "U32" in instruction.modifiers else ops.signed(a) < ops.signed(b)
    lanes.write(result, np.where(less == lanes.predicate(predicate), a, b), mask)


def _absolute(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, source = instruction.operands
    lanes.write(result, ops.unsigned(abs(ops.signed(lanes.value(source) & ops.WORD))), mask)


def _permute(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, low, selector, high = instruction.operands
    values = [lanes.value(operand) & ops.WORD for operand in (low, selector, high)]
    lanes.write(result, ops.permute(*values), mask)


def _extend(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    """SGXT: the low bits, with copies of their highest or, unsigned, zeros."""
    result, source, count = instruction.operands
    unused = 32 - int(count, 0)
    high = (lanes.value(source) & ops.WORD) << np.uint64(unused) & ops.WORD
    if "U32" in instruction.modifiers:
        lanes.write(result, high >> np.uint64(unused), mask)
    else:
        lanes.write(result, ops.unsigned(ops.signed(high) >> unused), mask)


def _vote_any(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, source = instruction.operands
    warps = (lanes.predicate(source) & mask).reshape(-1, 32).any(axis=1)
    lanes.write_predicate(result, np.repeat(warps, 32), mask)


def _pack_predicates(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    """P2R: predicates as the bits of a register."""
    result, kind, source, chosen = instruction.operands
    bits = int(chosen, 16)
    value = lanes.value(source) & np.uint64(~bits & 0xFFFFFFFF)
    for i in range(7):
        if bits >> i & 1:
            value = value | (lanes.predicate(f"{kind[:-1]}{i}").astype(np.uint64) << np.uint64(i))
    lanes.write(result, value, mask)


def _unpack_predicates(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    """R2P: bits of a register as predicates."""
    kind, source, chosen = instruction.operands
    for i in range(7):
        if int(chosen, 16) >> i & 1:
            bit = (lanes.value(source) >> np.uint64(i)) & np.uint64(1)
            lanes.write_predicate(f"{kind[:-1]}{i}", bit.astype(bool), mask)


def _to_float(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, source = instruction.operands
    low = lanes.value(source) & ops.WORD
    wide = "U64" in instruction.modifiers
    high = lanes.value(source, wide=True) >> _HIGH if wide else np.uint64(0)
    lanes.write(result, ops.to_float(instruction.modifiers, low, high), mask)


def _to_integer(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, source = instruction.operands
    value = ops.truncate(lanes.value(source))
    (lanes.write_pair if "U64" in instruction.modifiers else lanes.write)(result, value, mask)


def _reciprocal(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    result, source = instruction.operands
    lanes.write(result, ops.reciprocal(lanes.value(source)), mask)


def _halves(lanes: Lanes, instruction: Instruction, mask: Any) -> None:
    """HFMA2 with zero factors: how two constants are loaded."""
    high, low = (np.float16(float(text)).view(np.uint16) for text in instruction.operands[3:5])
    lanes.write(instruction.operands[0], np.uint64(int(high) << 16 | int(low)), mask)


Function = Callable[[Lanes, Instruction, Any], None]
_FUNCTIONS: dict[str, Function] = {
    **dict.fromkeys(("MOV", "UMOV", "LDC", "ULDC", "S2R", "S2UR", "CS2R", "R2UR"), _move),
    **dict.fromkeys(("IADD3", "UIADD3", "VIADD"), _add),
    **dict.fromkeys(("IMAD", "UIMAD"), _multiply_add),
    **dict.fromkeys(("LEA", "ULEA"), _scaled_add),
    **dict.fromkeys(("LOP3", "ULOP3"), _logic),
    **dict.fromkeys(("PLOP3", "UPLOP3"), _predicate_logic),
    **dict.fromkeys(("SHF", "USHF"), _shift),
    **dict.fromkeys(("ISETP", "UISETP"), _compare),
    **dict.fromkeys(("SEL", "USEL"), _select),
    **dict.fromkeys(("VIMNMX", "IMNMX", "VIADDMNMX"), _minimum),
    **dict.fromkeys(("PRMT", "UPRMT"), _permute),
    **dict.fromkeys(("SGXT", "USGXT"), _extend),
    **dict.fromkeys(("P2R", "UP2UR"), _pack_predicates),
    **dict.fromkeys(("R2P", "UR2UP"), _unpack_predicates),
    "VOTE": _vote_any,
    "IABS": _absolute,
    "I2F": _to_float,
    "F2I": _to_integer,
    "MUFU": _reciprocal,
    "HFMA2": _halves,
}


def function_of(instruction: Instruction) -> Function | None:
    """What runs an instruction; None for arithmetic on data."""
    name, modifiers, operands = instruction.name, instruction.modifiers, instruction.operands
    if name == "MUFU" and modifiers != ("RCP",):
        return None
    if name == "HFMA2" and operands[1:3] != ("-RZ", "RZ"):
        return None
    if name == "VOTE" and (modifiers != ("ANY",) or len(operands) != 2):
        return None
    # A constant of a bank other than 0, or at an address from a register.
    if any("c[" in operand and not _CONSTANT.match(operand) for operand in operands):
        return None
    return _FUNCTIONS.get(name)


# Waiting, and what the compiler tells of where lanes meet.
NO_EFFECT = frozenset(
    ("NOP", "BAR", "BSSY", "BSYNC", "BREAK", "WARPSYNC", "YIELD", "MEMBAR", "DEPBAR", "LDGDEPBAR",
     "ERRBAR", "CCTL", "BMOV")
)  # fmt: skip
