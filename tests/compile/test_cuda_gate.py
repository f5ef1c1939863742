"""The gate of the CUDA kernels: the machine code in the built library, as it ships."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import cuda_gate as tool
import pytest

import effkern
from effkern import _library
from effkern.testing import cuda_gate as gate
from effkern.testing import cuda_standard, sass
from effkern.testing.predictions import Predicted

LIBRARY = Path(effkern.__file__).parent / "libeffkern_ops.so"
KERNEL = "depthwise_conv2d_channels_last_kernel<float32, 3, 1, BiasActivation>"
CONTIGUOUS = "depthwise_conv2d_contiguous_kernel<bfloat16, 3, 1, 7, 7, 2, BiasActivation>"

# What cuobjdump 12.8 prints of code from nvcc 13.0, with the encodings cut short.
SASS = """
\t\tFunction : _Z5firstPf
\t.headerflags\t@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;              /* 0x00000a00ff017b82 */
                                                                       /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;    /* 0x0000000402047981 */
        /*0020*/              @P1  LDG.E.U16.CONSTANT R4, [R2.64] ;    /* 0x0000000402047981 */
        /*0030*/                   LDGSTS.E.BYPASS.128 [R0], [R2.64] ; /* 0x0000000402047981 */
        /*0040*/                   FFMA R0, R1, R2, R3 ;               /* 0x0000000402047981 */
        /*0050*/             @!UP0 UIADD3 UR4, UR4, 0x1, URZ ;         /* 0x0000000402047981 */
        /*0060*/                   STG.E.64 [R2.64], R4 ;              /* 0x0000000402047981 */
        /*0070*/                   EXIT ;                              /* 0x000000000000794d */
        /*0080*/                   NOP;                                /* 0x0000000000007918 */
\t\tFunction : _Z6secondPf
        /*0000*/                   STL [R1+0x4], R9 ;                  /* 0x0000040901007387 */
        /*0010*/                   LDL.LU R9, [R1+0x4] ;               /* 0x0000040001097983 */
"""
USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function _Z5firstPf:
  REG:46 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:760 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z6secondPf:
  REG:255 STACK:8 SHARED:13824 LOCAL:16 CONSTANT[0]:680 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
ELF = """
.nv.info._Z5firstPf
\t<0x9>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x80 0x2 0x1 
\t<0x10>
.nv.info._Z6secondPf
\t<0x1>
\tAttribute:\tEIATTR_CUDA_API_VERSION
.text._Z6secondPf
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x1 0x1 0x1 
"""  # noqa: W291


def test_parsers():
    sass = gate.parse_sass(SASS)
    assert list(sass) == ["_Z5firstPf", "_Z6secondPf"]
    assert sass["_Z5firstPf"].total() == 9 and sass["_Z5firstPf"]["LDG.E.128.CONSTANT"] == 1
    assert sass["_Z6secondPf"] == {"STL": 1, "LDL.LU": 1}
    assert gate.parse_usage(USAGE) == {
        "_Z5firstPf": gate.Usage(46, 0, 1024, 0),
        "_Z6secondPf": gate.Usage(255, 8, 13824, 16),
    }
    assert gate.parse_threads(ELF) == {"_Z5firstPf": 256}


def test_facts():
    facts = gate.facts(gate.Usage(46, 0, 1024, 0), 256, gate.parse_sass(SASS)["_Z5firstPf"], 90)
    assert facts == gate.Facts(
        registers=46,
        local_memory=0,
        spill_instructions=0,
        # What cuobjdump counts is the system's own.
        shared_memory=0,
        threads=256,
        # 46 registers are allotted as 48.
        blocks=5,
        occupancy=0.625,
        instructions=8,
        fused_multiply_adds=1,
        load_widths={2: 1, 16: 2},
        store_widths={8: 1},
    )


def test_short_names():
    if shutil.which("c++filt") is None:
        pytest.skip("wanted c++filt, got none in PATH")
    mangled = (
        "_ZN7effkern42depthwise_conv2d_strided_grad_input_kernelI13__nv_bfloat16lEEvPKT_S4_PS2_"
        "NS_12StridedShapeIT0_EES7_"
    )
    policy = "_ZN7effkern6kernelI6__halfLi3ENS_14BiasActivationIS1_EEEEvT_T1_"
    assert gate.shorten([mangled, policy]) == {
        mangled: "depthwise_conv2d_strided_grad_input_kernel<bfloat16, long>",
        policy: "kernel<float16, 3, BiasActivation>",
    }


def test_the_compiler_of_a_library(tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(b"\0Cuda compilation tools, release 13.0, V13.0.88\0Build cuda_13.0\0" * 2)
    assert gate.nvcc_version(path) == "13.0.88"
    path.write_bytes(b"")
    assert gate.nvcc_version(path) == "unknown"


@pytest.mark.parametrize(
    "name, load, store",
    [
        (KERNEL, gate.Access(16, 6, (4,)), gate.Access(16, 4)),
        (KERNEL.replace("float32, 3, 1", "float16, 3, 2"), (16, 10, (2,)), (16, 2, ())),
        # Four channels and longer strips: ChannelsLastShape.
        (KERNEL.replace("float32, 3, 1", "bfloat16, 7, 1"), (8, 10, (2,)), (8, 4, ())),
        ("depthwise_conv2d_channels_last_wgrad_kernel<float16, 3, 2>", (16, 13, ()), (4, 1, ())),
        (CONTIGUOUS, (16, 4, (2,)), (16, 4, (2,))),
        (CONTIGUOUS.replace("BiasActivation", "Hooked"), (16, 4, (2, 4)), (16, 4, (2, 4))),
        (
            "depthwise_conv2d_contiguous_wgrad_kernel<float32, 5, 2, 7, 7, 0>",
            (16, 8, (4,)),
            (4, 1, ()),
        ),
        (
            "depthwise_conv2d_contiguous_wgrad_mma_kernel<bfloat16, 3, 8>",
            (16, 2, (8, 4, 2)),
            (4, 1, ()),
        ),
        (
            "depthwise_conv2d_channels_last_wgrad_mma_kernel<bfloat16, 7>",
            (8, 3, ()),
            (4, 1, ()),
        ),
        (
            "depthwise_conv2d_toeplitz_kernel<bfloat16, 7, BiasActivation>",
            (16, 1, (8, 4, 2)),
            (4, 14, (2,)),
        ),
        (
            "depthwise_conv2d_toeplitz_large_kernel<float16, 5, BiasActivation>",
            (16, 1, (8, 4, 2)),
            (4, 16, (2,)),
        ),
        (
            "depthwise_conv2d_toeplitz_channels_last_kernel<float16, 5, BiasActivation>",
            (16, 4, (2,)),
            (8, 14, ()),
        ),
        (
            "depthwise_conv2d_toeplitz_planes_kernel<bfloat16, 7, BiasActivation>",
            (8, 8, (4, 2)),
            (8, 8, (4, 2)),
        ),
        ("depthwise_conv2d_strided_kernel<float64, long, ActivationGrad>", None, None),
        (
            "depthwise_conv2d_layer_norm_kernel<bfloat16, 7, float32>",
            (8, 30, (2, 16)),
            (8, 8, (4,)),
        ),
        (
            "depthwise_conv2d_layer_norm_kernel<float16, 3, float32>",
            (16, 12, (2, 16)),
            (16, 4, (4,)),
        ),
        ("fused_mbconv_kernel<bfloat16, 0>", (16, 8, (2,)), (16, 8, ())),
        ("pointwise_kernel<float16, 128, false, true>", (16, 8, ()), (16, 2, ())),
    ],
)
def test_plans(name, load, store):
    plan = gate.plan(name)
    assert (plan.load, plan.store) == (load, store)


# Planted faults: what the gate has to find.


def clean(**changes):
    facts = gate.Facts(
        registers=133,
        local_memory=0,
        spill_instructions=0,
        shared_memory=4608,
        threads=128,
        blocks=3,
        occupancy=0.188,
        instructions=1252,
        fused_multiply_adds=144,
        load_widths={4: 13, 16: 6},
        store_widths={16: 4},
    )
    return facts._replace(**changes)


def test_a_clean_kernel_passes():
    assert gate.faults(KERNEL, clean()) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"spill_instructions": 2}, "registers: wanted no spills, got 2 LDL and STL"),
        ({"local_memory": 8}, "local memory: wanted none, got 8 bytes"),
        ({"instructions": 4501}, "code: wanted at most 4500 instructions, got 4501"),
        ({"shared_memory": 49153}, "shared memory: wanted at most 49152 bytes, got 49153"),
        (
            {"threads": 0, "blocks": 0},
            "block: wanted __launch_bounds__ that fit the device, got none",
        ),
        (
            {"blocks": 0, "threads": 768},
            "block: wanted __launch_bounds__ that fit the device, got 768 threads of 133 registers",
        ),
        (
            {"load_widths": {4: 13, 8: 12}},
            "load width: wanted at least 6 of 16 bytes and others of 4, got 13 of 4, 12 of 8",
        ),
        # One of them has become narrower.
        (
            {"load_widths": {4: 17, 16: 5}},
            "load width: wanted at least 6 of 16 bytes and others of 4, got 17 of 4, 5 of 16",
        ),
        (
            {"store_widths": {4: 4, 16: 4}},
            "store width: wanted at least 4 of 16 bytes and others of no other, "
            "got 4 of 4, 4 of 16",
        ),
        (
            {"store_widths": {}},
            "store width: wanted at least 4 of 16 bytes and others of no other, got none",
        ),
    ],
)
def test_faults(changes, message):
    assert gate.faults(KERNEL, clean(**changes)) == [message]


def test_staged_tiles_count_as_shared_memory():
    facts = clean(shared_memory=20000, load_widths={2: 3, 16: 4}, store_widths={2: 3, 16: 4})
    (fault,) = gate.faults(CONTIGUOUS, facts)
    assert fault == "shared memory: wanted at most 49152 bytes, got 52768"


@pytest.mark.parametrize("name", ["depthwise_conv2d_new_kernel<float32, 3, 1>", "plain_kernel"])
def test_a_kernel_without_a_plan_is_found(name):
    message = "plan: wanted an entry in effkern/testing/cuda_gate.py, got none"
    assert gate.faults(name, clean()) == [message]


def test_a_spill_in_the_machine_code_is_found():
    opcodes = Counter({"STL": 1, "LDL.LU": 1, "LDG.E.128": 6, "STG.E.128": 4})
    facts = gate.facts(gate.Usage(255, 8, 1024, 0), 128, opcodes, 90)
    assert gate.faults(KERNEL, facts) == [
        "registers: wanted no spills, got 2 LDL and STL",
        "local memory: wanted none, got 8 bytes",
    ]


def test_narrow_accesses_in_the_machine_code_are_found():
    code = "Function : f\n" + 6 * "/*0000*/ LDG.E.64.CONSTANT R4, [R2.64] ;\n"
    code += 4 * "/*0000*/ STG.E.128 [R2.64], R4 ;\n"
    facts = gate.facts(gate.Usage(133, 0, 1024, 0), 128, gate.parse_sass(code)["f"], 90)
    message = "load width: wanted at least 6 of 16 bytes and others of 4, got 6 of 8"
    assert gate.faults(KERNEL, facts) == [message]


def test_a_missing_architecture_or_kernel_is_found():
    found = {80: {KERNEL: clean(), CONTIGUOUS: clean()}, 90: {KERNEL: clean()}}
    assert tool.missing(found, [80, 90, 120]) == [
        "architectures: wanted sm_120, got sm_80, sm_90",
        f"sm_90: no {CONTIGUOUS}",
    ]
    assert tool.missing({}, [90]) == ["architectures: wanted sm_90, got none"]


def test_only_known_faults_are_excused(monkeypatch):
    family = "depthwise_conv2d_contiguous_grad_input_kernel"
    monkeypatch.setattr(tool, "KNOWN", {family: ("store width: ", "the compiler's doing")})
    name = f"{family}<float32, 3>"
    facts = clean(load_widths={4: 2, 16: 4}, store_widths={4: 32})
    faults, known = tool.all_faults({name: facts})
    assert faults == [] and known[0].startswith(f"{name}: store width: ")
    faults, known = tool.all_faults({name: facts._replace(spill_instructions=1)})
    assert len(faults) == len(known) == 1
    faults, known = tool.all_faults({KERNEL: facts})
    assert len(faults) == 2 and not known


@pytest.mark.parametrize(
    "changes, differences, worse",
    [
        ({}, [], []),
        ({"instructions": 1289}, ["instructions 1252 -> 1289"], []),
        (
            {"instructions": 1290},
            ["instructions 1252 -> 1290"],
            ["instructions: wanted at most 1289, got 1290"],
        ),
        ({"registers": 160}, ["registers 133 -> 160"], []),
        (
            {"registers": 176, "occupancy": 0.125},
            ["registers 133 -> 176", "occupancy 0.188 -> 0.125"],
            ["occupancy: wanted at least 0.188, got 0.125"],
        ),
        ({"occupancy": 0.25}, ["occupancy 0.188 -> 0.25"], []),
    ],
)
def test_changes(changes, differences, worse):
    old = tool.baseline("13.0.88", {KERNEL: clean()}, {})
    new = tool.baseline("13.0.88", {KERNEL: clean(**changes)}, {})
    found = tool.changes(old, new)
    assert found == tuple([f"{KERNEL}: {line}" for line in part] for part in (differences, worse))


def test_a_longer_predicted_time_is_found():
    def baseline(microseconds, instructions=1252):
        predictions = {KERNEL: Predicted(microseconds, 35.5, 0.37)}
        return tool.baseline("13.0.88", {KERNEL: clean(instructions=instructions)}, predictions)

    differences, worse = tool.changes(baseline(100.0), baseline(103.1))
    assert differences == [f"{KERNEL}: microseconds 100.0 -> 103.1"]
    assert worse == [f"{KERNEL}: predicted time: wanted at most 103 us, got 103.1"]
    # What is executed counts where it is known, not how long the code is.
    assert tool.changes(baseline(100.0), baseline(103.0, instructions=2000))[1] == []
    assert tool.changes(baseline(100.0), baseline(90.0))[1] == []


def test_new_and_removed_kernels_need_a_baseline():
    old = tool.baseline("13.0.88", {KERNEL: clean()}, {})
    new = tool.baseline("13.0.88", {CONTIGUOUS: clean()}, {})
    assert tool.changes(old, new) == ([], [f"{KERNEL}: gone", f"{CONTIGUOUS}: new"])
    assert tool.changes({"nvcc": "none", "kernels": {}}, new)[1] == ["there is no baseline"]


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Runs the tool on facts instead of a library: its exit status and what it printed."""
    library = tmp_path / "library.so"
    library.write_bytes(b"Cuda compilation tools, release 13.0, V13.0.88")
    monkeypatch.setattr(tool, "BASELINES", tmp_path / "baselines")
    monkeypatch.setattr(gate, "capabilities", lambda library: (80, 90))

    def run(capsys, *arguments, predictions=(), **changes):
        monkeypatch.setattr(gate, "read", lambda *_: {KERNEL: clean(**changes)})
        monkeypatch.setattr(cuda_standard, "predictions", lambda *_: dict(predictions))
        command = ["cuda_gate.py", str(library), "--sm", "80", "90", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        return tool.main(), capsys.readouterr().out

    return run


def test_command(planted, capsys):
    status, text = planted(capsys)
    assert status == 1 and "there is no baseline" in text
    assert planted(capsys, "--update", local_memory=8)[0] == 1
    assert not tool.baseline_path(90).exists()
    assert planted(capsys, "--update")[0] == planted(capsys)[0] == 0
    assert KERNEL in planted(capsys, "--list")[1]
    status, text = planted(capsys, instructions=1400)
    assert status == 1 and "instructions: wanted at most 1289, got 1400" in text
    times = {KERNEL: Predicted(44.1, 35.5, 0.37)}
    assert planted(capsys, "--update", predictions=times)[0] == 0
    assert (
        "44.1 us predicted with 35.5 instructions per output"
        in (planted(capsys, "--list", predictions=times)[1])
    )
    slower = {KERNEL: Predicted(45.5, 35.5, 0.37)}
    status, text = planted(capsys, predictions=slower)
    assert status == 1 and "predicted time: wanted at most 45.42 us, got 45.5" in text
    assert planted(capsys, "--update", predictions=slower)[0] == 0
    assert planted(capsys, predictions=slower)[0] == 0
    status, text = planted(capsys, spill_instructions=1)
    assert status == 1 and "wanted no spills, got 1 LDL and STL" in text
    status, text = planted(capsys, "--sm", "80", "90", "120")
    assert status == 1 and "architectures: wanted sm_120, got sm_80, sm_90" in text


def test_another_compiler_changes_what_it_likes_but_faults_stay(planted, capsys):
    planted(capsys, "--update")
    for capability in (80, 90):
        old = tool.read(capability)
        tool.write(capability, {**old, "nvcc": "12.8.55"})
    status, text = planted(capsys, instructions=1400)
    assert status == 0
    assert "instructions: wanted at most 1289, got 1400" in text
    assert "changes only reported: the baseline is that of nvcc 12.8.55" in text
    assert planted(capsys, instructions=1400, local_memory=8)[0] == 1


# What is shipped.


def not_here(reason):
    # Where the kernels' sources are tested, their machine code must not be left out.
    if "cuda_emulated" in os.environ.get("EFFKERN_REQUIRE_BACKENDS", ""):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def shipped():
    for name in ("cuobjdump", "c++filt"):
        if sass.find_tool(name) is None:
            not_here(f"wanted {name} in the triton package or in PATH, got neither")
    capabilities = gate.capabilities(LIBRARY)
    if missing := set(tool.CAPABILITIES) - set(capabilities):
        names = ", ".join(f"sm_{capability}" for capability in sorted(missing))
        not_here(f"wanted a library with CUDA code, got none for {names}")
    return {capability: gate.read(LIBRARY, capability) for capability in capabilities}


def test_every_architecture_has_every_kernel(shipped):
    assert tool.missing(shipped, list(tool.CAPABILITIES)) == []
    assert all(len(kernels) > 100 for kernels in shipped.values())


def test_no_kernel_has_a_fault(shipped):
    faults = {capability: tool.all_faults(kernels)[0] for capability, kernels in shipped.items()}
    assert not any(faults.values()), faults


def test_known_faults_are_still_there(shipped):
    if gate.nvcc_version(LIBRARY) != tool.read(90)["nvcc"]:
        pytest.skip("another nvcc may have other faults")
    known = [fault for kernels in shipped.values() for fault in tool.all_faults(kernels)[1]]
    gone = [name for name in tool.KNOWN if not any(name in fault for fault in known)]
    assert not gone, "take it out of KNOWN in tools/cuda_gate.py"


@pytest.mark.parametrize("capability", tool.WITH_BASELINE, ids="sm_{}".format)
def test_nothing_is_worse_than_the_baseline(shipped, capability):
    version, old = gate.nvcc_version(LIBRARY), tool.read(capability)
    if version != old["nvcc"]:
        pytest.skip(f"wanted a library of nvcc {old['nvcc']}, got {version}")
    if error := _library.emulation_error():
        not_here(str(error))
    predictions = cuda_standard.predictions(LIBRARY, capability)
    _, worse = tool.changes(old, tool.baseline(version, shipped[capability], predictions))
    assert not worse, "with a reason in the change, run python tools/cuda_gate.py --update"


@pytest.mark.parametrize("capability", tool.WITH_BASELINE, ids="sm_{}".format)
def test_baselines_are_as_written(capability, tmp_path, monkeypatch):
    path = tool.baseline_path(capability)
    old, text = tool.read(capability), path.read_text()
    assert list(old["kernels"]) == sorted(old["kernels"]) and len(old["kernels"]) > 100
    monkeypatch.setattr(tool, "BASELINES", tmp_path)
    tool.write(capability, old)
    assert tool.baseline_path(capability).read_text() == text


def test_wide_accesses_are_what_most_channels_last_kernels_have(shipped):
    pattern = r"depthwise_conv2d_channels_last_(kernel|grad_input_kernel)<(float32, |\w+, 3)"
    # With hooks there are sums, too.
    names = [n for n in shipped[90] if re.match(pattern, n) and not n.endswith("Hooked>")]
    # 9 that go forward, 4 that go back.
    assert len(names) == 13
    for name in names:
        facts = shipped[90][name]
        assert facts.load_widths[16] >= 4 and facts.store_widths.keys() == {16}


@pytest.mark.parametrize(
    "kernel, count, products",
    (
        # Four steps of 16 tiles and of half as many, and one of each.
        ("fused_mbconv_kernel", 6, 4 * (16 + 8) + 16 + 8),
        # Two steps of 2 tiles of pixels and 8 of channels; twice as many of pixels where a block
        # has 128 channels.
        ("pointwise_kernel", 12, 2 * 16),
    ),
)
def test_runs_on_tensor_cores(shipped, kernel, count, products):
    for capability in shipped:
        sections = gate.dump(LIBRARY, capability, "-sass").split("Function : ")
        found = [code for code in sections if kernel in code.split("\n", 1)[0]]
        assert len(found) == count
        assert all(code.count("HMMA.16816.F32") >= products for code in found)
