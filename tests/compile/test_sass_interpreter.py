"""Running the control flow and the addresses of machine code."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from effkern.testing.launch_facts import _mma_flops, sample_blocks
from effkern.testing.sass_interpreter import Interpreter, TooLongError, UnknownValueError
from effkern.testing.sass_program import Program, split_programs


def program(text):
    """Of lines without addresses; labels stand alone, and in branches."""
    lines = [line.split("//")[0].strip() for line in text.strip().splitlines()]
    lines = [line for line in lines if line]
    labels, code = {}, []
    for line in lines:
        if line.endswith(":"):
            labels[line[:-1]] = 16 * len(code)
        else:
            code.append(line)
    for label, address in labels.items():
        code = [line.replace(f"<{label}>", hex(address)) for line in code]
    return Program("\n".join(f"/*{16 * i:04x}*/ {line} ;" for i, line in enumerate(code)))


def run(text, parameters=b"", threads=32, blocks=1, capability=90, **limits):
    """Opcodes that the warps issue, and the traffic."""
    interpreter = Interpreter(
        program(text), capability, (blocks, 1, 1), (threads, 1, 1), parameters, np.arange(blocks)
    )
    return interpreter.run(**limits), interpreter.traffic


LOOP = """
    S2R R0, SR_TID.X
    MOV R1, RZ
top:
    FFMA R5, R5, R6, R7
    IADD3 R1, R1, 0x1, RZ
    ISETP.GE.AND P0, PT, R1, c[0x0][0x210], PT
    @!P0 BRA <top>
    EXIT
    NOP
"""


def test_trip_counts_come_from_the_parameters():
    opcodes, _ = run(LOOP, struct.pack("i", 7), threads=64)
    assert opcodes == {
        "S2R": 2, "MOV": 2, "FFMA": 14, "IADD3": 14, "ISETP.GE.AND": 14, "BRA": 14, "EXIT": 2,
    }  # fmt: skip
    # Another place for the parameters.
    opcodes, _ = run(LOOP.replace("0x210", "0x160"), struct.pack("i", 3), capability=80)
    assert opcodes["FFMA"] == 3


def test_loops_of_a_program():
    (loop,) = program(LOOP).loops
    assert loop == {"FFMA": 1, "IADD3": 1, "ISETP.GE.AND": 1, "BRA": 1}


def test_a_loop_without_end():
    with pytest.raises(TooLongError, match="wanted at most 50 stretches of code"):
        run("top:\n IADD3 R1, R1, 0x1, RZ\n BRA <top>", most_steps=50)


DIVERGES = """
    S2R R0, SR_TID.X
    ISETP.GE.U32.AND P0, PT, R0, 0x10, PT
    @P0 BRA <other>
    FADD R1, R1, R1
    BRA <end>
other:
    FMUL R1, R1, R1
end:
    FFMA R1, R1, R1, R1
    EXIT
"""


def test_lanes_that_diverge_meet_again():
    opcodes, _ = run(DIVERGES, threads=64)
    # Only the first warp goes both ways; what comes after, it runs once.
    assert opcodes["FADD"] == 1 and opcodes["FMUL"] == 2 and opcodes["FFMA"] == 2


def test_lanes_beyond_the_block_do_not_run():
    opcodes, traffic = run(
        "S2R R0, SR_TID.X\n IMAD.WIDE.U32 R2, R0, 0x4, RZ\n STG.E [R2.64], R5\n EXIT", threads=40
    )
    assert opcodes["STG.E"] == 2 and traffic.global_stores.bytes == 160


@pytest.mark.parametrize("line", ["LDG.E R1, [R2.64]", "MUFU.EX2 R1, R1", "VOTE.ANY R1, PT, P1"])
def test_branches_on_data_are_refused(line):
    text = f"{line}\n ISETP.NE.AND P0, PT, R1, RZ, PT\n @P0 EXIT\n EXIT"
    with pytest.raises(UnknownValueError, match="a branch that does not depend on data"):
        run(text)
    with pytest.raises(UnknownValueError, match="an address that does not depend on data"):
        run(f"{line}\n LDS R3, [R1]\n EXIT")
    # Known again.
    run(f"{line}\n MOV R1, RZ\n ISETP.NE.AND P0, PT, R1, RZ, PT\n @P0 EXIT\n EXIT")


# P0 is true in the first 16 lanes; R46 holds data, of which two bits are overwritten.
KEPT = """
    S2R R0, SR_TID.X
    ISETP.LT.U32.AND P0, PT, R0, 0x10, PT
    LDG.E R46, [R2.64]
    LOP3.LUT R46, R46, 0xfffffffd, RZ, 0xc0, !PT
    @P0 LOP3.LUT R46, R46, 0x2, RZ, 0xfc, !PT
    {between}
    LOP3.LUT P1, RZ, R46.reuse, {bit}, RZ, 0xc0, !PT
    @P1 STG.E [R4.64], R5
    EXIT
"""


def test_predicates_that_are_bits_of_a_register():
    # A bit that depends on data is another one.
    set_by_data = "FSETP.GEU.AND P2, PT, R46, R5, PT\n @P2 LOP3.LUT R46, R46, 0x1, RZ, 0xfc, !PT"
    for between in ("", set_by_data):
        _, traffic = run(KEPT.format(between=between, bit="0x2"))
        assert traffic.global_stores.bytes == 64


@pytest.mark.parametrize(
    "between, bit",
    (
        # Two bits; one that was set only; one by data; all of them loaded again.
        ("", "0x6"),
        ("@P0 LOP3.LUT R46, R46, 0x4, RZ, 0xfc, !PT", "0x4"),
        ("FSETP.GEU.AND P2, PT, R6, R5, PT\n @P2 LOP3.LUT R46, R46, 0x2, RZ, 0xfc, !PT", "0x2"),
        ("LDG.E R46, [R2.64]", "0x2"),
        ("SHF.L.U32 R46, R46, 0x1, RZ", "0x2"),
    ),
)
def test_other_bits_of_a_register_depend_on_data(between, bit):
    with pytest.raises(UnknownValueError, match="an address that does not depend on data"):
        run(KEPT.format(between=between, bit=bit))


TABLE = """
    S2R R0, SR_TID.X
    IMAD.SHL.U32 R1, R0, 0x4, RZ
    STS [R1+0x100], R0
    LDG.E R9, [R2.64]
    {between}
    LDS.64 R4, [0x108]
    LDS R6, [R5]
    EXIT
"""


def test_integers_come_back_from_shared_memory():
    _, traffic = run(TABLE.format(between="BAR.SYNC 0x0"))
    # Two halves of a warp, then thread 2's number as the address of all lanes.
    assert traffic.shared_loads.requests == 2 and traffic.shared_loads.wavefronts == 3
    for store in ("STS [0x10c], R9", "STS.64 [0x108], R0", "LDGSTS.E [0x108], [R2.64]"):
        with pytest.raises(UnknownValueError, match="an address that does not depend on data"):
            run(TABLE.format(between=store))


def test_global_traffic():
    text = """
        S2R R0, SR_TID.X
        S2R R1, SR_CTAID.X
        IMAD.WIDE.U32 R2, R0, 0x8, RZ
        LDG.E.64 R4, desc[UR6][R2.64+0x20]    // 32 lanes x 8 bytes: 8 sectors a warp
        LDG.E R4, desc[UR6][R2.64+0x20]       // the same sectors
        IMAD.WIDE.U32 R2, R1, 0x4, RZ
        STG.E [R2.64], R4                     // one word of one sector, from every lane
        EXIT
    """
    _, traffic = run(text, threads=64, blocks=2)
    loads, stores = traffic.global_loads, traffic.global_stores
    assert (loads.requests, loads.sectors, loads.unique_sectors) == (8, 64, 32)
    assert loads.bytes == 2 * 64 * 12
    assert (stores.requests, stores.sectors, stores.unique_sectors) == (4, 4, 2)


@pytest.mark.parametrize(
    "opcode, pitch, wavefronts",
    [
        ("LDS", 4, 1),
        ("LDS", 8, 2),
        ("LDS", 128, 32),
        # All lanes want one word.
        ("LDS", 0, 1),
        ("LDS.64", 8, 2),
        ("LDS.128", 16, 4),
        ("LDS.128", 32, 8),
        # Rows of 16 bytes: eight for each matrix, from as many lanes.
        ("LDSM.16.M88.4", 16, 4),
        ("LDSM.16.M88.2", 16, 2),
        ("LDSM.16.M88.4", 128, 32),
        ("LDSM.16.MT88", 128, 8),
    ],
)
def test_bank_conflicts(opcode, pitch, wavefronts):
    text = f"S2R R0, SR_TID.X\n IMAD R0, R0, {pitch:#x}, RZ\n {opcode} R4, [R0+0x40]\n EXIT"
    assert run(text)[1].shared_loads.wavefronts == wavefronts


def result(text, register="R9", bits=32, parameters=b""):
    """What a computation leaves in a register (pair), told by the address that it loads from."""
    wide = "" if bits == 64 else "MOV R9, R9\n"
    address = f"{register}.64" if bits == 64 else f"{register}"
    loads = []

    class Recorder(Interpreter):
        def _access(self, decoded, mask):
            loads.append(int(self._lanes.address(decoded.address)[0]))

    code = f"{text}\n {wide} {'LDG.E' if bits == 64 else 'LDS'} R20, [{address}]\n EXIT"
    Recorder(program(code), 90, (1, 1, 1), (32, 1, 1), parameters, np.arange(1)).run()
    return loads[0]


@pytest.mark.parametrize("a, b", [(1000, 7), (7, 1000), (2**31 - 1, 3), (123456789, 12345)])
def test_division_as_the_compiler_writes_it(a, b):
    text = """
        ULDC UR4, c[0x0][0x214]
        I2F.U32.RP R0, UR4
        MUFU.RCP R0, R0
        VIADD R2, R0, 0xffffffe
        F2I.FTZ.U32.TRUNC.NTZ R3, R2
        MOV R2, RZ
        IADD3 R5, RZ, -R3, RZ
        IMAD R5, R5, UR4, RZ
        IMAD.HI.U32 R3, R3, R5, R2
        LDC R6, c[0x0][0x210]
        IMAD.HI.U32 R9, R3, R6, RZ
        IADD3 R7, RZ, -R9, RZ
        IMAD R6, R7, UR4, R6
        ISETP.GE.U32.AND P0, PT, R6, UR4, PT
        @P0 VIADD R6, R6, -UR4
        @P0 VIADD R9, R9, 0x1
        ISETP.GE.U32.AND P0, PT, R6, UR4, PT
        @P0 VIADD R9, R9, 0x1
    """
    assert result(text, parameters=struct.pack("II", a, b)) == a // b


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("MOV R1, 0x5\n IADD3 R9, R1, -0x7, RZ", 2**32 - 2),
        ("MOV R1, 0xffffffff\n IADD3 R2, P0, R1, 0x1, RZ\n IADD3.X R9, RZ, RZ, RZ, P0, !PT", 1),
        ("IADD3 R2, P0, RZ, -RZ, RZ\n IADD3.X R9, RZ, ~RZ, RZ, P0, !PT", 0),
        ("MOV R1, 0x30\n LEA R9, R1, 0x4, 0x3", 0x184),
        ("MOV R1, 0xfffffff0\n LEA.HI.SX32 R9, R1, 0x2, 0x1d", 0),
        ("MOV R1, 0x80000000\n SHF.R.S32.HI R9, RZ, 0x1f, R1", 2**32 - 1),
        ("MOV R1, 0x80000001\n MOV R2, 0x1\n SHF.L.U64.HI R9, R1, 0x1, R2", 3),
        ("MOV R1, 0xf0\n LOP3.LUT R9, R1, 0x3c, RZ, 0xc0, !PT", 0x30),
        ("MOV R1, 0xfffffffb\n IABS R9, R1", 5),
        ("MOV R1, 0xfffffffb\n VIMNMX R9, R1, 0x2, !PT", 2),
        ("MOV R1, 0x11223344\n PRMT R9, R1, 0x7610, RZ", 0x3344),
        ("HFMA2.MMA R9, -RZ, RZ, 0, 5.9604644775390625e-08", 1),
        ("MOV R1, 0x7\n SEL R9, R1, RZ, !PT", 0),
        ("MOV R1, 0xfc\n SGXT R9, R1, 0x4", 2**32 - 4),
        ("MOV R1, 0xfc\n SGXT.U32 R9, R1, 0x4", 0xC),
        ("ISETP.EQ.AND P3, PT, RZ, RZ, PT\n MOV R1, 0xf0\n P2R R9, PR, R1, 0x18", 0xE8),
        ("MOV R1, 0x4\n R2P PR, R1, 0x6\n SEL R9, RZ, 0x1, P1\n @P2 IADD3 R9, R9, 0x1, RZ", 2),
    ],
)
def test_arithmetic(text, wanted):
    assert result(text) == wanted


def test_wide_arithmetic():
    text = "MOV R1, 0xffffffff\n MOV R2, 0x8\n MOV R3, 0x1\n IMAD.WIDE R8, R1, 0x4, R2"
    assert result(text, "R8", bits=64) == (1 << 32) + 8 - 4
    text = text.replace("IMAD.WIDE", "IMAD.WIDE.U32")
    assert result(text, "R8", bits=64) == (1 << 32) + 8 + 4 * (2**32 - 1)


@pytest.mark.parametrize("a, b", [(5, 4), (1 << 40, 5), (5, 1 << 40), (-1, 1), (7, 7)])
def test_comparisons_of_64_bits(a, b):
    text = """
        LDC.64 R2, c[0x0][0x210]
        LDC.64 R4, c[0x0][0x218]
        ISETP.GE.U32.AND P0, PT, R2, R4, PT
        ISETP.GE.AND.EX P0, PT, R3, R5, PT, P0
        SEL R9, RZ, 0x1, !P0
    """
    assert result(text, parameters=struct.pack("qq", a, b)) == (a >= b)


def test_subroutines_return():
    text = """
        MOV R8, 0x20
        CALL.REL.NOINC <twice>
        MOV R8, 0x40
        CALL.REL.NOINC <twice>
        EXIT
    twice:
        FADD R1, R1, R1
        RET.REL.NODEC R8 0x0
    """
    assert run(text)[0]["FADD"] == 2


def test_programs_of_a_listing():
    codes = split_programs(
        "\tFunction : _Z1fv\n/*0000*/ EXIT ;\n\tFunction : _Z1gv\n/*0000*/ NOP ;"
    )
    assert list(codes) == ["_Z1fv", "_Z1gv"] and "EXIT" in codes["_Z1fv"]


def test_samples_are_spread_and_the_same_each_time():
    assert sample_blocks(3, 4).tolist() == [0, 1, 2]
    chosen = sample_blocks(1000, 10)
    assert (chosen // 100).tolist() == list(range(10))
    assert (chosen == sample_blocks(1000, 10)).all()


def test_copies_past_the_registers_count_on_both_sides():
    text = "S2R R0, SR_TID.X\n IMAD R1, R0, 0x20, RZ\n IMAD.WIDE.U32 R2, R0, 0x10, RZ\n"
    _, traffic = run(f"{text} LDGSTS.E.BYPASS.128 [R1+0x100], desc[UR6][R2.64]\n EXIT")
    assert traffic.global_loads.sectors == 16 and traffic.global_loads.bytes == 512
    assert traffic.shared_stores.wavefronts == 8


@pytest.mark.parametrize(
    "opcode, flops",
    [
        ("HMMA.16816.F32.BF16", 4096),
        ("HMMA.1688.F32.TF32", 2048),
        ("HGMMA.64x64x16.F32.BF16", 2 * 64 * 64 * 16 / 4),
        ("FFMA", 0),
    ],
)
def test_matrix_products(opcode, flops):
    assert _mma_flops(opcode) == flops
