"""Compiles every Triton kernel that layers of real models launch, for GPUs that are not there.

    python tools/triton_gate.py                 compare with the baseline; a fault fails
    python tools/triton_gate.py --update        write the baseline (some 20 minutes on one core)

A kernel's predicted time may not become longer by more than 3 %.

Only what the baseline does not have is compiled, unless --all is given: an entry's key is the
fingerprint of the kernel's code, its specialisation, triton's version and the device, and the
compilers give the same code for the same input. Where the code of the kernels has changed and the
IR of one has not ("ir" of the entry with its name), the entry is kept under its new key.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINES = ROOT / "tests" / "compile" / "baselines"
# Every dtype is compiled for sm_90. Elsewhere fewer stand for all: float16's kernels differ from
# bfloat16's in conversions only, and bfloat16's need the most registers.
DTYPES = {80: ("bfloat16", "float32"), 90: ("bfloat16", "float32", "float16"), 120: ("bfloat16",)}


def shipped(capability: int):
    """The launches of every workload layer and block on sm_`capability`, by fingerprint."""
    sys.path.insert(0, str(ROOT))
    import torch

    from effkern.testing import triton_blocks, triton_layers

    # By name: the benchmarks are no part of what tools/ is checked with.
    workloads = importlib.import_module("benchmarks.workloads")
    dtypes = [getattr(torch, name) for name in DTYPES[capability]]
    layers = workloads.distinct(workloads.models())
    blocks = triton_blocks.launches(capability, dtypes)
    return blocks | triton_layers.launches(layers, capability, dtypes)


def baseline_path(capability: int) -> Path:
    return BASELINES / f"triton-sm_{capability}.json"


def read(capability: int) -> dict:
    path = baseline_path(capability)
    return json.loads(path.read_text()) if path.exists() else {}


def write(capability: int, entries: dict) -> None:
    BASELINES.mkdir(exist_ok=True)
    lines = [
        f"{json.dumps(key)}: {json.dumps(entry)}"
        for key, entry in sorted(entries.items(), key=lambda item: item[1]["name"])
    ]
    baseline_path(capability).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _ir(launch) -> str:
    """Equal where compiling again would give the same machine code."""
    import triton

    words = (launch.ir, sorted(launch.options.items()), launch.capability, triton.__version__)
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]


def with_prediction(found, entry: dict) -> dict:
    """An entry of the baseline with the predicted time of its launch, where there is one: it
    depends on the grid as well as on the code."""
    from effkern.testing import triton_gate, triton_layers

    prediction = triton_layers.prediction(found, triton_gate.facts_of_json(entry))
    return entry | (prediction._asdict() if prediction else {})


def measure(found) -> tuple[dict, list[str]]:
    """The entry of the baseline and the faults of one launch."""
    from effkern.testing import triton_gate

    facts = triton_gate.facts(found.launch.compile())
    faults = triton_gate.faults(facts, triton_gate.plan(found.launch), found.launch.capability)
    entry = {"name": found.name, "ir": _ir(found.launch), **facts._asdict()}
    # As JSON has them: keys are strings.
    return with_prediction(found, json.loads(json.dumps(entry))), faults


def changes(old: dict, new: dict) -> list[str]:
    """What a new baseline changes, of the kernels with the same name in both."""
    before = {entry["name"]: entry for entry in old.values()}
    found = []
    for entry in new.values():
        previous = before.get(entry["name"])
        if previous is None:
            continue
        for fact in ("registers", "shared_memory", "occupancy", "instructions"):
            if entry[fact] != previous[fact]:
                found.append(f"{entry['name']}: {fact} {previous[fact]} -> {entry[fact]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--all", action="store_true", help="compile what the baseline has, too")
    parser.add_argument("--sm", type=int, nargs="*", default=list(DTYPES), help="capabilities")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from effkern.testing import predictions

    failed = False
    for capability in options.sm:
        old, launches = read(capability), shipped(capability)
        entries = {}
        by_name = {entry["name"]: entry for entry in old.values()}
        for key, found in launches.items():
            if key in old and not options.all:
                entries[key] = with_prediction(found, old[key])
                continue
            before = by_name.get(found.name)
            if before and before.get("ir") == _ir(found.launch) and not options.all:
                entries[key] = with_prediction(found, before)
                continue
            entry, faults = measure(found)
            entries[key] = entry
            for fault in faults:
                failed = True
                print(f"sm_{capability} {found.name}: {fault}")
            if key in old and old[key] != entry:
                failed = True
                print(f"sm_{capability} {found.name}: wanted {old[key]}, got {entry}")
            if options.update and not failed and len(entries) % 20 == 0:
                # What an interrupted run has done is kept.
                write(capability, old | entries)
        missing = len(launches.keys() - old.keys())
        print(f"sm_{capability}: {len(launches)} kernels, {missing} of them new", flush=True)
        print(*changes(old, entries), sep="\n")
        slower = predictions.slower(by_name, {entry["name"]: entry for entry in entries.values()})
        if slower and not options.update:
            failed = True
            print(*slower, sep="\n")
            print("with a reason in the change, run python tools/triton_gate.py --update")
        if options.update and not failed:
            write(capability, entries)
        failed |= not options.update and bool(launches.keys() ^ old.keys())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
