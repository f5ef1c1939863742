"""What a device can do before any kernel counts: its ceilings, and the host's time for a call.

python -m benchmarks.baseline ceilings --device cuda --output results/here
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import effkern

from . import ceilings, machine, overhead
from .problem import DTYPES


def _ceilings(device: str, quick: bool) -> dict[str, Any]:
    """By dtype; a matrix product takes the fastest unit that the dtype has."""
    names = ("bfloat16", "float16", "float32") if device == "cuda" else ("float32",)
    seconds = 0.005 if quick else 0.06
    return {name: ceilings.measure(device, DTYPES[name], seconds).to_json() for name in names}


def _host(device: str, quick: bool) -> dict[str, Any]:
    """By effkern's backend: rows of `overhead.measure`, each with torch's own calls."""
    names = ("cuda", "triton") if device == "cuda" else ("cpu", "torch")
    return {
        name: overhead.measure(device, 3 if quick else 15, backend=name)
        for name in names
        if effkern.backends()[name] is True
    }


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    measurements = {"ceilings": _ceilings, "host": _host}
    parser.add_argument("what", choices=measurements)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder")
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: cuda wanted, but torch.cuda.is_available() is False")
    results = {
        "kind": options.what,
        "commit": machine.commit(),
        "versions": machine.versions(),
        "machine": machine.facts(options.device),
        options.what: measurements[options.what](options.device, options.quick),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    (options.output / f"{options.what}.json").write_text(text + "\n")
    print(json.dumps(results[options.what], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
