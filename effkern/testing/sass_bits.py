"""Predicates that are kept as bits of a register, whose other bits are what is left of data."""

from __future__ import annotations

from collections.abc import Set

from .sass_decoder import Decoded, is_predicate

_WORD = 0xFFFFFFFF
# Tables of LOP3 for two operands next to each other, where the third is zero.
_AND, _OR = "0xc0", "0xfc"


class KnownBits:
    """Which bits are known of registers that are not."""

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}

    def executes(self, decoded: Decoded, unknown: Set[str]) -> bool:
        """Whether an instruction that reads something unknown has a known result all the same: a
        LOP3 that sets, clears or tests known bits of one register. Of what any other writes,
        nothing is known any more."""
        if decoded.instruction.name == "LOP3":
            result, *sources, table, _ = decoded.instruction.operands
            sources = [source.split(".")[0] for source in sources]
            registers = [source for source in sources if source.startswith("R") and source != "RZ"]
            numbers = [int(source, 0) for source in sources if source.startswith("0x")]
            if len(registers) == len(numbers) == 1 and table in (_AND, _OR):
                (register,), (number,) = registers, numbers
                others = (unknown & decoded.reads) - {register}
                if is_predicate(result):
                    return table == _AND and not others and self._has(register, number)
                if result == register == sources[0]:
                    bits = number if table == _OR else ~number & _WORD
                    return self._change(register, bits, decoded.instruction.guard, bool(others))
        self.forget(decoded.writes)
        return False

    def _has(self, register: str, bits: int) -> bool:
        return not bits & ~self._bits.get(register, 0)

    def _change(self, register: str, bits: int, guard: str, by_unknown: bool) -> bool:
        known = self._bits.get(register, 0)
        if by_unknown:
            known &= ~bits
        elif not guard:
            known |= bits
        # Under a guard, what was there before stays in some lanes.
        self._bits[register] = known
        return self._has(register, bits)

    def forget(self, registers: Set[str]) -> None:
        """They have been written as a whole."""
        for register in registers & self._bits.keys():
            del self._bits[register]
