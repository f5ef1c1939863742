"""The gate of the Triton kernels: what is shipped, compiled for GPUs that are not there."""

from __future__ import annotations

import sys
import zlib

import pytest
import torch

from effkern import _triton

triton = pytest.importorskip("triton")
if _triton.interpreting():
    pytest.skip("wanted a process that compiles, not TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl  # noqa: E402
import triton_gate as tool  # noqa: E402

from effkern.testing import predictions, triton_launch_facts  # noqa: E402
from effkern.testing import triton_gate as gate  # noqa: E402
from effkern.testing.triton_stub import recorded_launches  # noqa: E402

CAPABILITIES = (80, 90, 120)
all_capabilities = pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
# One kernel in so many is compiled here; the others are those of the baseline, by fingerprint.
SAMPLE = 10
# And this one: the products of matrices are nowhere else.
ALWAYS = "48-192-48@75 k3 s1 bfloat16 fused_mbconv"

needs_baselines_triton = pytest.mark.skipif(
    not triton.__version__.startswith("3.6."), reason="the baselines are those of triton 3.6"
)


@pytest.fixture(scope="module", params=CAPABILITIES, ids="sm_{}".format)
def shipped(request):
    return request.param, tool.shipped(request.param), tool.read(request.param)


@needs_baselines_triton
def test_every_shipped_kernel_is_in_the_baseline(shipped):
    capability, launches, baseline = shipped
    missing = [found.name for key, found in launches.items() if key not in baseline]
    gone = [entry["name"] for key, entry in baseline.items() if key not in launches]
    assert not missing and not gone, "run python tools/triton_gate.py --update"
    assert len(launches) > 100


@needs_baselines_triton
def test_no_shipped_kernel_has_a_fault(shipped):
    capability, launches, baseline = shipped
    faults = {
        launches[key].name: found
        for key, entry in baseline.items()
        if (
            found := gate.faults(
                gate.facts_of_json(entry), gate.plan(launches[key].launch), capability
            )
        )
    }
    assert not faults


@needs_baselines_triton
def test_kernels_compile_to_what_the_baseline_says(shipped, tmp_path, monkeypatch):
    capability, launches, baseline = shipped
    # Nothing from an earlier run.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sample = [
        key
        for key, found in launches.items()
        if zlib.crc32(key.encode()) % SAMPLE == 0 or found.name == ALWAYS
    ]
    assert len(sample) > 5
    for key in sample:
        entry, faults = tool.measure(launches[key])
        assert not faults, launches[key].name
        assert entry == baseline[key]


@pytest.mark.parametrize("kernel", ("fused_mbconv_kernel", "pointwise_kernel"))
def test_products_use_matrix_instructions_where_they_exist(shipped, kernel):
    _, launches, _ = shipped
    products = [found for found in launches.values() if found.launch.kernel == kernel]
    assert products
    for found in products:
        plan = gate.plan(found.launch)
        assert plan.matrix == ("float32" not in found.name) and plan.load_width == 16


def test_most_image_accesses_are_planned_16_bytes_wide(shipped):
    _, launches, _ = shipped
    plans = [
        gate.plan(found.launch)
        for found in launches.values()
        if "channels_last" in found.name and found.launch.kernel in ("stencil_kernel",)
    ]
    assert plans and all(plan.load_width == plan.store_width == 16 for plan in plans)


# Planted faults: what the gate has to find.


@triton.jit
def _spills(x, y, N: tl.constexpr, B: tl.constexpr):
    i = tl.arange(0, B)
    kept = ()
    for j in tl.static_range(N):
        kept = kept + (tl.load(x + j * B + i),)
    total = tl.zeros([B], tl.float32)
    # All of them stay alive, for every step.
    for _ in range(100):
        for j in tl.static_range(N):
            total = total * kept[j] + 1.0
    tl.store(y + i, total)


@triton.jit
def _copies(x, y, stride, B: tl.constexpr, TIMES: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + tl.program_id(0) * stride + i)
    for _ in tl.static_range(TIMES):
        value = value * 1.5 + 0.5
    tl.store(y + tl.program_id(0) * stride + i, value)


@triton.jit
def _multiplies(a, b, c, M: tl.constexpr):
    i = tl.arange(0, M)[:, None] * M + tl.arange(0, M)[None, :]
    tl.store(c + i, tl.dot(tl.load(a + i), tl.load(b + i)))


def compiled(capability, kernel, *arguments, warps=4, **constants):
    with recorded_launches(capability) as recorded:
        kernel[(1,)](*arguments, **constants, num_warps=warps)
    return gate.facts(recorded[0].compile())


def tensors(count, dtype=torch.float32):
    return [torch.empty(1 << 20, dtype=dtype, device="meta") for _ in range(count)]


@all_capabilities
def test_a_clean_kernel_passes(capability):
    facts = compiled(capability, _copies, *tensors(2), 1024, B=1024, TIMES=1, warps=8)
    assert gate.faults(facts, gate.Plan(16, 16), capability) == []
    assert facts.load_widths == {16: 1} and facts.store_widths == {16: 1}
    assert 0 < facts.registers < 64 and facts.occupancy == 1.0


@all_capabilities
def test_spills_are_found(capability):
    facts = compiled(capability, _spills, *tensors(2), N=48, B=1024, warps=4)
    faults = gate.faults(facts, gate.Plan(), capability)
    assert any(fault.startswith("registers: wanted no spills, got ") for fault in faults)
    assert any(fault.startswith("local memory: wanted none, got ") for fault in faults)


@all_capabilities
def test_narrow_accesses_are_found(capability):
    # A stride that triton knows nothing of leaves addresses unaligned.
    facts = compiled(capability, _copies, *tensors(2), 1027, B=1024, TIMES=1, warps=8)
    faults = gate.faults(facts, gate.Plan(16, 16), capability)
    assert len(faults) == 2
    assert faults[0].startswith("load width: wanted 16 bytes everywhere, got ")
    assert faults[1].startswith("store width: wanted 16 bytes everywhere, got ")
    narrow = sum(facts.load_widths.values())
    assert len(gate.faults(facts, gate.Plan(16, narrow_loads=narrow), capability)) == 0
    assert len(gate.faults(facts, gate.Plan(16, narrow_loads=narrow - 1), capability)) == 1


def test_long_code_is_found(monkeypatch):
    monkeypatch.setattr(gate, "MOST_INSTRUCTIONS", 200)
    facts = compiled(90, _copies, *tensors(2), 1024, B=1024, TIMES=100, warps=8)
    (fault,) = gate.faults(facts, gate.Plan(16, 16), 90)
    assert fault.startswith(f"code: wanted at most {gate.MOST_INSTRUCTIONS} instructions, got ")


@all_capabilities
def test_matrix_instructions(capability):
    half = compiled(capability, _multiplies, *tensors(3, torch.float16), M=64)
    wanted = gate.Plan(matrix=True)
    assert gate.faults(half, wanted, capability) == []
    plain = compiled(capability, _copies, *tensors(2), 1024, B=1024, TIMES=1, warps=8)
    (fault,) = gate.faults(plain, wanted, capability)
    assert fault.startswith("matrix instruction: wanted ") and fault.endswith("got none")


def test_shared_memory_over_the_limit_is_found():
    facts = compiled(90, _copies, *tensors(2), 1024, B=1024, TIMES=1, warps=8)
    facts = facts._replace(shared_memory=240000)
    (fault,) = gate.faults(facts, gate.Plan(), 90)
    assert fault == "shared memory: wanted at most 232448 bytes, got 240000"


def test_fingerprints_know_what_matters():
    def fingerprint(capability=90, warps=4, dtype=torch.float32, stride=1024, size=1024):
        with recorded_launches(capability) as recorded:
            _copies[(1,)](*tensors(2, dtype), stride, B=size, TIMES=1, num_warps=warps)
        return recorded[0].fingerprint

    assert fingerprint() == fingerprint(stride=2048)
    different = [
        fingerprint(),
        fingerprint(capability=80),
        fingerprint(warps=8),
        fingerprint(dtype=torch.float16),
        fingerprint(stride=1027),
        fingerprint(size=512),
    ]
    assert len(set(different)) == len(different)


@pytest.fixture(scope="module")
def stencil():
    """A launch of sm_90 with its entry: 5x5 in channels_last."""
    launches, entries = tool.shipped(90), tool.read(90)
    name = "240@28 k5 s1 bfloat16 channels_last stencil"
    (found,) = (found for found in launches.values() if found.name == name)
    (entry,) = (entry for entry in entries.values() if entry["name"] == name)
    return found, entry


def test_executed_instructions_by_hand(stencil):
    found, entry = stencil
    launch, facts = found.launch, gate.facts_of_json(entry)
    values, warps = launch.values, launch.options["num_warps"]
    counted = triton_launch_facts.triton_facts(
        launch, facts, triton_launch_facts.geometry(found.layer, 128, 2)
    )
    # The loop runs once for each of the kernel's columns.
    per_warp = facts.instructions + 4 * facts.loop_instructions
    assert counted.instructions == launch.grid[0] * warps * per_warp
    tiles = [28 // values["ROWS"], -(-28 // values["COLUMNS"])]
    blocks = -(-240 // values["CHANNELS"])
    assert launch.grid[0] == 128 * tiles[0] * tiles[1] * blocks
    # Rows of a tile with two above and two below, but for those outside the image.
    rows, columns = 28 + 4 * tiles[0] - 4, 28 + 4 * tiles[1] - 4
    weights = launch.grid[0] * 25 * values["CHANNELS"] * 4
    moved = 128 * 240 * 2 * (rows * columns + 28 * 28) + weights
    assert counted.touched_bytes == pytest.approx(moved, rel=0.03)


def test_a_longer_loop_is_a_longer_predicted_time(stencil):
    found, entry = stencil
    before = tool.with_prediction(found, entry)
    longer = entry | {"loop_instructions": round(1.1 * entry["loop_instructions"])}
    after = tool.with_prediction(found, longer)
    name = found.name
    (fault,) = predictions.slower({name: before}, {name: after})
    assert fault.startswith(f"{name}: predicted time: wanted at most ")
    little = entry | {"loop_instructions": round(1.02 * entry["loop_instructions"])}
    assert not predictions.slower({name: before}, {name: tool.with_prediction(found, little)})


def test_the_command_fails_where_a_predicted_time_grows(stencil, tmp_path, monkeypatch, capsys):
    found, entry = stencil
    monkeypatch.setattr(tool, "BASELINES", tmp_path)
    monkeypatch.setattr(tool, "shipped", lambda capability: {"key": found})
    longer = entry | {"loop_instructions": 2 * entry["loop_instructions"]}

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["triton_gate.py", "--sm", "90", *arguments])
        return tool.main(), capsys.readouterr().out

    tool.write(90, {"key": entry})
    assert command("--update")[0] == 0
    written = tool.read(90)["key"]
    assert written["microseconds"] > 0 and command()[0] == 0
    tool.write(90, {"key": longer | {"microseconds": written["microseconds"]}})
    status, text = command()
    assert status == 1 and f"{found.name}: predicted time: wanted at most " in text
    assert command("--update")[0] == command()[0] == 0
