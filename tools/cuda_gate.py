"""Checks the machine code of every CUDA kernel in the built library; no GPU, no compiler.

python tools/cuda_gate.py                    compare with the baseline; a fault fails
python tools/cuda_gate.py --update           write the baseline
python tools/cuda_gate.py --list             print what is known of every kernel

Each kernel's time on a standard problem is predicted, which needs the emulated library.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASELINES = ROOT / "tests" / "compile" / "baselines"
LIBRARY = ROOT / "effkern" / "libeffkern_ops.so"
# A100, H100 and the newest family, which build_cuda.default_archs adds with nvcc 13.
CAPABILITIES = (80, 90, 120)
# sm_120 is compiled so that it runs; nothing is tuned for it.
WITH_BASELINE = (80, 90)
# A kernel without a predicted time may become longer by this, unless the change has a new baseline.
MOST_GROWTH = 0.03
# What is wrong and has not been mended: kernels of this name, how the fault begins, and why.
KNOWN: dict[str, tuple[str, str]] = {}

Baseline = dict[str, Any]


def baseline_path(capability: int) -> Path:
    return BASELINES / f"cuda-sm_{capability}.json"


def baseline(version: str, kernels: dict, predictions: dict) -> Baseline:
    """What is committed of the facts of all kernels."""
    entries = {
        name: {
            "registers": f.registers,
            "occupancy": f.occupancy,
            "instructions": f.instructions,
            **(predictions[name]._asdict() if name in predictions else {}),
        }
        for name, f in sorted(kernels.items())
    }
    return {"nvcc": version, "kernels": entries}


def read(capability: int) -> Baseline:
    path = baseline_path(capability)
    return json.loads(path.read_text()) if path.exists() else {"nvcc": "none", "kernels": {}}


def write(capability: int, new: Baseline) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in new["kernels"].items()]
    text = f'{{"nvcc": {json.dumps(new["nvcc"])}, "kernels": {{\n' + ",\n".join(lines) + "\n}}\n"
    BASELINES.mkdir(exist_ok=True)
    baseline_path(capability).write_text(text)


def changes(old: Baseline, new: Baseline) -> tuple[list[str], list[str]]:
    """What is different from the baseline, and which of it needs a new one."""
    from effkern.testing import predictions

    before, after = old["kernels"], new["kernels"]
    if not before:
        return [], ["there is no baseline"]
    differences, worse = [], []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            worse.append(f"{name}: {'gone' if name in before else 'new'}")
            continue
        was, now = before[name], after[name]
        for fact in {**was, **now}:
            if now.get(fact) != was.get(fact):
                differences.append(f"{name}: {fact} {was.get(fact)} -> {now.get(fact)}")
        if now["occupancy"] < was["occupancy"]:
            wanted, got = was["occupancy"], now["occupancy"]
            worse.append(f"{name}: occupancy: wanted at least {wanted}, got {got}")
        if "microseconds" in now and "microseconds" in was:
            continue
        most = math.floor(was["instructions"] * (1 + MOST_GROWTH))
        if now["instructions"] > most:
            count = now["instructions"]
            worse.append(f"{name}: instructions: wanted at most {most}, got {count}")
    return differences, worse + predictions.slower(before, after)


def all_faults(kernels: dict) -> tuple[list[str], list[str]]:
    """The faults of all kernels, and those that are known."""
    from effkern.testing import cuda_gate

    found: list[str] = []
    known: list[str] = []
    for name, facts in kernels.items():
        for fault in cuda_gate.faults(name, facts):
            start, reason = KNOWN.get(name.split("<")[0], ("", ""))
            if reason and fault.startswith(start):
                known.append(f"{name}: {fault} ({reason})")
            else:
                found.append(f"{name}: {fault}")
    return found, known


def missing(by_capability: dict[int, dict], wanted: list[int]) -> list[str]:
    """Architectures without code, and kernels that only other architectures have."""
    everywhere = {name for kernels in by_capability.values() for name in kernels}
    got = ", ".join(f"sm_{capability}" for capability in by_capability) or "none"
    found = [
        f"architectures: wanted sm_{capability}, got {got}"
        for capability in wanted
        if capability not in by_capability
    ]
    for capability, kernels in by_capability.items():
        found += [f"sm_{capability}: no {name}" for name in sorted(everywhere - kernels.keys())]
    return found


def describe(name: str, facts, prediction) -> str:
    share = 100 * facts.fused_multiply_adds / facts.instructions
    loads, stores = (
        " ".join(f"{count}x{width}" for width, count in widths.items())
        for widths in (facts.load_widths, facts.store_widths)
    )
    predicted = (
        f"; {prediction.microseconds} us predicted with {prediction.instructions_per_output} "
        f"instructions per output, {100 * prediction.multiply_add_share:.0f}% FMA or MMA"
        if prediction
        else ""
    )
    return (
        f"{facts.registers:4} registers {facts.local_memory:3} B local {facts.shared_memory:6} B "
        f"shared {facts.blocks:3} blocks of {facts.threads} ({facts.occupancy:5.3f}) "
        f"{facts.instructions:5} instructions {share:3.0f}% FMA, loads {loads}, stores {stores}"
        f"{predicted}: {name}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("library", type=Path, nargs="?", default=LIBRARY)
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--list", action="store_true", help="print every kernel")
    parser.add_argument(
        "--sm", type=int, nargs="+", default=list(CAPABILITIES), help="capabilities wanted"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from effkern.testing import cuda_gate, cuda_standard

    if not options.library.is_file():
        parser.error(f"wanted a built library, got {options.library}")
    version = cuda_gate.nvcc_version(options.library)
    # What is there beyond the wanted has to be without faults, too.
    try:
        found = {
            capability: cuda_gate.read(options.library, capability)
            for capability in cuda_gate.capabilities(options.library)
        }
        predicted = {
            capability: cuda_standard.predictions(options.library, capability)
            for capability in WITH_BASELINE
            if capability in found
        }
    except (FileNotFoundError, RuntimeError) as error:
        parser.error(str(error))
    failed = missing(found, options.sm)
    lines = list(failed)
    for capability, kernels in found.items():
        faults, known = all_faults(kernels)
        most = max(facts.registers for facts in kernels.values())
        longest = max(facts.instructions for facts in kernels.values())
        lines.append(
            f"sm_{capability}: {len(kernels)} kernels of nvcc {version}, at most {most} registers "
            f"and {longest} instructions; {len(faults)} faults and {len(known)} known ones"
        )
        if options.list:
            times = predicted.get(capability, {})
            lines += [describe(name, f, times.get(name)) for name, f in kernels.items()]
        lines += [f"  known: {fault}" for fault in known] + [f"  {fault}" for fault in faults]
        failed += faults
        if capability not in WITH_BASELINE:
            continue
        old, new = read(capability), baseline(version, kernels, predicted[capability])
        differences, worse = changes(old, new)
        lines += [f"  {line}" for line in [*differences, *worse]]
        if options.update:
            # Never the baseline of a faulty library.
            if not failed:
                write(capability, new)
        elif old["nvcc"] not in ("none", version):
            lines.append(f"  changes only reported: the baseline is that of nvcc {old['nvcc']}")
        elif worse:
            failed += worse
            lines.append("  with a reason in the change, run python tools/cuda_gate.py --update")
    print(*lines, sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
