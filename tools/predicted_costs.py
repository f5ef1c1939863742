"""Writes effkern/predicted_costs.csv from the published predictions; no GPU, nothing is compiled.

python tools/predicted_costs.py            write it
python tools/predicted_costs.py --check    fail if it is not what would be written

The predictions are those of `python -m benchmarks predict`, whose terms are turned back into what
the kernels execute and move, for each pixel and channel of the result.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "h200-predicted" / "predicted.json"
COSTS = ROOT / "effkern" / "predicted_costs.csv"
PASSES = {"fwd": "forward", "dgrad": "grad_input", "wgrad": "grad_weight"}
HEADER = (
    *(
        "backend",
        "pass",
        "dtype",
        "layout",
        "kernel",
        "stride",
        "layer",
        "code",
        "launch",
        "reads_operands",
    ),
    *("instructions", "l2_bytes", "shared_bytes", "mma_flops", "special_functions"),
)


def key(cell: dict[str, Any], layer: Any) -> tuple[Any, ...]:
    """What tells a call of benchmarks/predict.py, on a layer of benchmarks.workloads, apart."""
    return (
        cell["kernels"], PASSES[cell["pass"]], cell["dtype"], cell["layout"],
        f"{layer.kernel_h}x{layer.kernel_w}", f"{layer.stride_h}x{layer.stride_w}",
        f"{layer.channels}x{layer.height}x{layer.width}",
    )  # fmt: skip


def rows(cell: dict[str, Any], layer: Any) -> list[tuple[Any, ...]]:
    """A line for each launch of the call."""
    from effkern.prediction import EFFICIENCY, H200

    size = (layer.height, layer.width)
    if cell["pass"] != "dgrad":
        size = (layer.out_height, layer.out_width)
    outputs = cell["batch"] * layer.out_channels * size[0] * size[1]
    rates = {
        "issue": H200.issue,
        "L2": H200.l2,
        "shared memory": H200.shared,
        "tensor cores": H200.mma,
        "special functions": H200.special,
    }
    launches = [
        dict(zip(cell["terms_us"], microseconds, strict=True))
        for microseconds in cell["launch_terms_us"]
    ]
    # The one that the bytes of the operands were attributed to.
    main = min(launches, key=lambda terms: abs(terms["DRAM"] - cell["floor_us"]))
    found = []
    for launch, terms in enumerate(launches, start=1):
        per_output = [
            f"{terms[name] * 1e-6 * EFFICIENCY * rate / outputs:.4g}"
            for name, rate in rates.items()
        ]
        found.append((*key(cell, layer), cell["kernel"], launch, int(terms is main), *per_output))
    return found


def text(result: dict[str, Any]) -> str:
    """The file's contents."""
    workloads = importlib.import_module("benchmarks.workloads")
    layers = {layer.name: layer for layer in workloads.distinct(result["options"]["models"])}
    if result["ceilings"]["name"] != "H200":
        raise ValueError(f"{RESULT}: wanted an H200's, got {result['ceilings']['name']}'s")
    # Layers that differ in their bias only are counted once.
    calls = {key(cell, layers[cell["layer"]]): cell for cell in result["cells"]}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for cell in calls.values():
        layer = layers[cell["layer"]]
        plain = (layer.dilation_h, layer.dilation_w, layer.multiplier) == (1, 1, 1)
        if plain and not cell["failure"]:
            writer.writerows(rows(cell, layer))
    return file.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    new = text(json.loads(RESULT.read_text()))
    if not options.check:
        COSTS.write_text(new)
    elif COSTS.read_text() != new:
        print(f"{COSTS.name}: wanted what python tools/predicted_costs.py writes, got another")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
