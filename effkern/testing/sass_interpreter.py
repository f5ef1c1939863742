"""Runs the control flow and the addresses of machine code: what a kernel executes, and touches.

Integer arithmetic, predicates and branches are computed for every lane of some blocks, and integers
come back from shared memory; data are not computed. So the counts are those of a launch, whatever
the trip counts of loops depend on: instructions per warp, and the memory that each of them touches.
Lanes of a warp that diverge meet again at the first instruction that all of them reach. A branch or
an address that depends on data is an error.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from . import sass_operations as ops
from .sass import access_width
from .sass_bits import KnownBits
from .sass_decoder import Decoded, decode, following
from .sass_execution import NO_EFFECT, Function, Lanes, function_of
from .sass_program import Program
from .sass_shared import SharedIntegers
from .traffic import Traffic

# Where the first parameter lies in constant bank 0, by compute capability.
PARAMETERS = {80: 0x160, 90: 0x210}
_MEMORY = {"LDG", "LDGSTS", "LD", "STG", "ST", "LDS", "LDSM", "STS"}
_BRANCHES = {"BRA", "EXIT", "CALL", "RET", "BRX", "JMP", "JMX"}
_END = 1 << 40
# Bytes.
_MATRIX_ROW = 16


class UnknownValueError(RuntimeError):
    """What the code does depends on data, or on an instruction that is not known here."""


class TooLongError(RuntimeError):
    """The code runs for longer than it may take."""


class Interpreter:
    """Some blocks of a launch, all their lanes at once.

    Attributes:
        traffic: of the blocks, after `run`.
    """

    def __init__(
        self,
        program: Program,
        capability: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: bytes,
        blocks: np.ndarray,
    ) -> None:
        """Args: blocks: the numbers of those that run, x innermost."""
        bank = bytearray(PARAMETERS[capability])
        for i, size in enumerate((*block, *grid)):
            bank[4 * i : 4 * i + 4] = size.to_bytes(4, "little")
        threads = block[0] * block[1] * block[2]
        warps = -(-threads // 32)
        thread = np.tile(np.arange(warps * 32, dtype=np.uint64), len(blocks))
        number = np.repeat(blocks.astype(np.uint64), warps * 32)
        special = {}
        for name, index, sizes in (("TID", thread, block), ("CTAID", number, grid)):
            x, y = np.uint64(sizes[0]), np.uint64(sizes[1])
            for axis, value in zip(
                "XYZ", (index % x, index // x % y, index // x // y), strict=True
            ):
                special[f"SR_{name}.{axis}"] = value
        special["SR_LANEID"] = thread % np.uint64(32)
        self._lanes = Lanes(len(thread), bytes(bank) + parameters + bytes(64), special)
        self._program = program
        self._code: list[list[tuple[Decoded, Function | None]]] = program.derived(
            "decoded",
            lambda: [
                [(decode(i), function_of(i)) for i in block.instructions if i.name not in NO_EFFECT]
                for block in program.blocks
            ],
        )
        self._next = np.where(thread < threads, 0, _END)
        self._unknown: set[str] = set()
        self._bits = KnownBits()
        self._shared = SharedIntegers(len(thread), len(blocks))
        self.traffic = Traffic(warps, len(blocks))

    def run(self, most_steps: int = 100_000) -> Counter[str]:
        """How often warps issue each opcode, added over the blocks that run.

        Args:
            most_steps: stretches of code without a branch; 10000 take about a second.

        Raises:
            UnknownValueError: see there.
            TooLongError: more than `most_steps`.
        """
        visits = [0] * len(self._program.blocks)
        for _ in range(most_steps):
            at = int(self._next.min())
            if at == _END:
                break
            active = self._next == at
            index = self._program.index[at]
            visits[index] += int(np.count_nonzero(active.reshape(-1, 32).any(axis=1)))
            self._run_block(index, active)
        else:
            raise TooLongError(f"wanted at most {most_steps} stretches of code, got more")
        self.traffic.finish()
        issued: Counter[str] = Counter()
        for block, count in zip(self._program.blocks, visits, strict=True):
            for opcode, times in block.opcodes.items():
                issued[opcode] += times * count
        return issued

    def _run_block(self, index: int, active: np.ndarray) -> None:
        after = self._program.blocks[index].instructions[-1].address + 16
        self._next[active] = after if after in self._program.index else _END
        lanes, forgotten = self._lanes, self._unknown
        for decoded, function in self._code[index]:
            instruction = decoded.instruction
            if instruction.name in _MEMORY:
                self._access(decoded, active)
            elif instruction.name in _BRANCHES:
                self._branch(decoded, active)
            elif function is None or not forgotten.isdisjoint(decoded.reads):
                if function is not None and self._bits.executes(decoded, forgotten):
                    guarded = lanes.predicate(instruction.guard) if instruction.guard else True
                    function(lanes, instruction, active & guarded)
                    # Of its register, other bits stay unknown.
                    forgotten -= decoded.writes - decoded.reads
                    continue
                forgotten |= decoded.writes
                # Kernels vote on data to find what is rare: infinities, NaN. There are none.
                if instruction.name == "VOTE" and function is not None:
                    lanes.write_predicate(instruction.operands[0], np.False_, active)
                    forgotten -= decoded.writes
            else:
                mask = active & lanes.predicate(instruction.guard) if instruction.guard else active
                function(lanes, instruction, mask)
                self._bits.forget(decoded.writes)
                # Under a guard too: what is read later is read under the same one.
                forgotten -= decoded.writes

    def _access(self, decoded: Decoded, mask: np.ndarray) -> None:
        instruction, address = decoded.instruction, decoded.address
        # What is stored is data, and may be unknown.
        if address is None or not self._unknown.isdisjoint(decoded.needed):
            raise UnknownValueError(
                f"wanted an address that does not depend on data, got {instruction}"
            )
        if instruction.guard:
            mask = mask & self._lanes.predicate(instruction.guard)
        at, width = self._lanes.address(address), access_width(instruction.opcode)
        stores = instruction.name in ("STG", "ST", "STS")
        if decoded.copied_to is not None:
            place = self._lanes.address(decoded.copied_to) & ops.WORD
            self.traffic.count_shared(place, mask, width, stores=True)
            self._shared.store(place, mask, width, None)
        if instruction.name == "LDSM":
            # Eight lanes have the rows of a matrix.
            matrices = int(instruction.modifiers[-1]) if instruction.modifiers[-1] in "24" else 1
            rows = self._lanes.special["SR_LANEID"] < np.uint64(8 * matrices)
            self.traffic.count_shared(at & ops.WORD, mask & rows, _MATRIX_ROW, stores)
        elif instruction.name in ("LDS", "STS"):
            self.traffic.count_shared(at & ops.WORD, mask, width, stores)
            if self._integers(decoded, at & ops.WORD, mask, width):
                return
        else:
            self.traffic.count_global(at, mask, width, stores)
        if not stores:
            self._bits.forget(decoded.writes)
            self._unknown |= decoded.writes

    def _integers(self, decoded: Decoded, at: np.ndarray, mask: np.ndarray, width: int) -> bool:
        """Keeps what is stored, if it is known; whether what is loaded is."""
        instruction, lanes = decoded.instruction, self._lanes
        if instruction.name == "STS":
            known = width == 4 and self._unknown.isdisjoint(decoded.reads)
            value = lanes.value(instruction.operands[1]) if known else None
            self._shared.store(at, mask, width, value)
            return True
        values = self._shared.load(at, mask, width)
        if values is None:
            return False
        for i, value in enumerate(values):
            lanes.write(following(instruction.operands[0], i), value, mask)
        self._unknown -= decoded.writes
        return True

    def _branch(self, decoded: Decoded, mask: np.ndarray) -> None:
        instruction = decoded.instruction
        name, operands = instruction.name, instruction.operands
        # A warp leaves a shuffle's fast path only where it has diverged.
        if "DIV" in instruction.modifiers:
            return
        if name in ("BRX", "JMP", "JMX") or not self._unknown.isdisjoint(decoded.reads):
            raise UnknownValueError(
                f"wanted a branch that does not depend on data, got {instruction}"
            )
        if instruction.guard:
            mask = mask & self._lanes.predicate(instruction.guard)
        if name == "EXIT":
            self._next[mask] = _END
            return
        # Another way leads to where a warp comes together that has diverged.
        converged = "CONV" in instruction.modifiers
        for operand in operands[:-1] if name == "BRA" and not converged else ():
            mask = mask & self._lanes.predicate(operand)
        if name == "RET":
            register, offset = operands[0].split()
            target = self._lanes.register(register) + np.uint64(int(offset, 16))
            self._next = np.where(mask, target.astype(np.int64), self._next)
        else:
            assert instruction.target is not None
            self._next[mask] = instruction.target
