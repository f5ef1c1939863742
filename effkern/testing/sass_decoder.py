"""What an instruction reads and writes."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from .sass_program import Instruction

_REGISTER = re.compile(r"[-~]?\|?(U?R)(\d+|Z)\b")
_PREDICATE = re.compile(r"!?(UP|P)(\d|T)$")
_ADDRESS = re.compile(r"\[(?:(U?R(?:\d+|Z))(?:\.\w+)*)?(?:\+(UR\d+))?(?:\+?(-?0x[0-9a-f]+))?\]$")
_COMPARISONS = ("ISETP", "UISETP", "FSETP", "DSETP", "HSETP2", "PLOP3", "UPLOP3")
_STORES = ("STG", "STS", "ST", "STL", "RED", "LDGSTS")


class Address(NamedTuple):
    """Register (a pair if `wide`), uniform register, and an offset in bytes."""

    register: str
    uniform: str
    offset: int
    wide: bool


class Decoded(NamedTuple):
    """An instruction with the names of what it reads (its guard as well) and writes; those of
    constants left out. `needed` is what decides where it goes or what it touches; `copied_to` the
    place in shared memory of a copy past the registers."""

    instruction: Instruction
    reads: frozenset[str]
    writes: frozenset[str]
    needed: frozenset[str]
    address: Address | None
    copied_to: Address | None


def following(register: str, count: int = 1) -> str:
    """R7 after R6."""
    kind = "UR" if register.startswith("UR") else "R"
    return register if register.endswith("Z") else f"{kind}{int(register[len(kind) :]) + count}"


@cache
def is_predicate(operand: str) -> bool:
    return _PREDICATE.match(operand) is not None


def _register(operand: str) -> str | None:
    match = _REGISTER.match(operand)
    return match[1] + match[2] if match else None


def _width(instruction: Instruction) -> int:
    """Registers that the result takes."""
    modifiers = instruction.modifiers
    if instruction.name == "CS2R":
        return 1 if "32" in modifiers else 2
    if "128" in modifiers:
        return 4
    wide = "64" in modifiers or "WIDE" in modifiers
    double = instruction.name in ("DADD", "DMUL", "DFMA") or "U64" in modifiers
    return 2 if wide or double or "F64" in modifiers[:1] else 1


def _address(operand: str) -> Address | None:
    match = _ADDRESS.search(operand)
    if match is None:
        return None
    register, uniform, offset = match.groups()
    if register is not None and register.startswith("UR"):
        register, uniform = None, register
    return Address(register or "", uniform or "", int(offset or "0", 16), ".64" in operand)


def decode(instruction: Instruction) -> Decoded:
    operands, name = list(instruction.operands), instruction.name
    writes: list[str] = []
    if name in _COMPARISONS:
        writes, operands = operands[:2], operands[2:]
    elif name == "VOTE":
        writes, operands = operands[:1], operands[1:]
    elif name not in _STORES:
        while operands and is_predicate(operands[0]):
            writes.append(operands.pop(0))
        if operands and (register := _register(operands[0])):
            writes += [following(register, i) for i in range(_width(instruction))]
            operands.pop(0)
            while operands and is_predicate(operands[0]):
                writes.append(operands.pop(0))
    reads: list[str] = []
    for operand in operands:
        if is_predicate(operand):
            reads.append(operand.lstrip("!"))
        elif register := _register(operand):
            reads.append(register)
            if name in ("IMAD", "UIMAD") and {"WIDE", "HI"} & set(instruction.modifiers):
                if operand is operands[2]:
                    reads.append(following(register))
    memory = [operand for operand in instruction.operands if operand.endswith("]")]
    address = None
    if memory and not memory[-1].lstrip("-~").startswith("c["):
        address = _address(memory[0 if name in ("LDS", "STS", "LDSM") else -1])
        if address is not None:
            reads += [address.register, address.uniform]
            if address.wide and address.register:
                reads.append(following(address.register))
    if name in ("P2R", "UP2UR", "R2P", "UR2UP"):
        packed = next(operand for operand in instruction.operands if operand in ("PR", "UPR"))
        chosen = int(instruction.operands[-1], 16)
        named = [f"{packed[:-1]}{i}" for i in range(7) if chosen >> i & 1]
        (reads if name.startswith(("P", "UP")) else writes).extend(named)
    copied_to = _address(memory[0]) if name == "LDGSTS" else None
    guard = instruction.guard.lstrip("!")
    needed = [guard]
    for place in (address, copied_to):
        if place is not None:
            needed += place[:2]
            if place.wide and place.register:
                needed.append(following(place.register))
    constant = {"RZ", "URZ", "PT", "UPT", ""}
    return Decoded(
        instruction,
        frozenset([guard, *reads]) - constant,
        frozenset(writes) - constant,
        frozenset(needed) - constant,
        address,
        copied_to,
    )
