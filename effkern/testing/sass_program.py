"""Machine code as a graph: instructions, and the blocks that branches cut them into."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
# Those that end a block; what waits for other lanes does not.
_BRANCHES = frozenset(("BRA", "BRX", "JMP", "JMX", "CALL", "RET", "EXIT", "KILL"))


class Instruction(NamedTuple):
    """One line of a disassembly: `@!P0 IMAD.WIDE R2, R3, 0x4, R4`."""

    address: int
    guard: str
    opcode: str
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def target(self) -> int | None:
        """Where a direct branch goes."""
        if self.name not in ("BRA", "CALL") or not self.operands:
            return None
        return int(self.operands[-1], 16) if self.operands[-1].startswith("0x") else None


def _parse(address: str, guard: str, opcode: str, operands: str) -> Instruction:
    name, *modifiers = opcode.split(".")
    parts = tuple(part.strip() for part in operands.split(",") if part.strip())
    return Instruction(int(address, 16), guard, opcode, name, tuple(modifiers), parts)


class Block(NamedTuple):
    """Instructions that run one after the other, without their padding."""

    instructions: tuple[Instruction, ...]
    opcodes: Counter[str]


def _block(instructions: list[Instruction]) -> Block:
    # NOPs fill up the end of a kernel.
    opcodes = Counter(one.opcode for one in instructions if one.name != "NOP")
    return Block(tuple(instructions), opcodes)


class Program:
    """The code of one kernel.

    Attributes:
        blocks: in the order of their addresses.
        index: of the block that begins at an address.
    """

    def __init__(self, text: str) -> None:
        """Args:
        text: of one function, as cuobjdump -sass prints it.
        """
        instructions = [_parse(*line) for line in _LINE.findall(text)]
        leaders = {0}
        for instruction, following in zip(instructions, instructions[1:], strict=False):
            if instruction.name in _BRANCHES:
                leaders.add(following.address)
            if instruction.target is not None:
                leaders.add(instruction.target)
        starts = [i for i, one in enumerate(instructions) if one.address in leaders]
        self.blocks = [
            _block(instructions[start:end])
            for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True)
        ]
        self._derived: dict[str, Any] = {}
        self.index = {block.instructions[0].address: i for i, block in enumerate(self.blocks)}

    def derived(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made of a program once."""
        if name not in self._derived:
            self._derived[name] = make()
        return self._derived[name]

    @cached_property
    def loops(self) -> list[Counter[str]]:
        """The opcodes between the target of each backward branch and the branch."""
        found = []
        for i, block in enumerate(self.blocks):
            last = block.instructions[-1]
            # A kernel ends in a branch to itself.
            if last.name == "BRA" and last.target is not None and last.target < last.address:
                first = self.index[last.target]
                found.append(sum((b.opcodes for b in self.blocks[first : i + 1]), Counter()))
        return found


def split_programs(text: str) -> dict[str, str]:
    """The code of each kernel by its mangled name, from `cuobjdump -sass`."""
    sections = (section.split("\n", 1) for section in text.split("Function : ")[1:])
    return {name.strip(): code for name, code in sections}
