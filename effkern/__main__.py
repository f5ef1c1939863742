"""python -m effkern doctor | explain."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import torch

from . import __version__, info, registry
from .explanation import PASSES, explain_sizes
from .ops.depthwise_conv2d import ACTIVATIONS, resolve

_DTYPES = ("float32", "float64", "float16", "bfloat16")


def _ints(*counts: int) -> Callable[[str], tuple[int, ...]]:
    """Parses as many comma-separated integers as one of `counts`."""

    def integers(text: str) -> tuple[int, ...]:
        try:
            values = tuple(int(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) not in counts:
            wanted = " or ".join(map(str, counts))
            raise argparse.ArgumentTypeError(
                f"wanted {wanted} integers separated by commas, got {text!r}"
            )
        return values

    return integers


def _padding(text: str) -> str | tuple[int, ...] | tuple[tuple[int, int], tuple[int, int]]:
    if text in ("same", "valid"):
        return text
    values = _ints(1, 2, 4)(text)
    return values if len(values) < 4 else ((values[0], values[1]), (values[2], values[3]))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"wanted a positive number, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m effkern", description=__doc__)
    parser.add_argument("--version", action="version", version=f"effkern {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="versions, devices, backends, environment, and how to fix what is missing",
        description="Exit status 1 if there are problems.",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    explain = commands.add_parser("explain", help="which kernel a call runs, and why")
    add = explain.add_argument
    add("--op", choices=["depthwise_conv2d"], default="depthwise_conv2d")
    add("--input", type=_ints(4), required=True, metavar="N,C,H,W")
    add("--kernel", type=_ints(1, 2), required=True, metavar="K[,K]", help="height[,width]")
    add("--stride", type=_ints(1, 2), default=(1,), metavar="S[,S]")
    add(
        "--padding",
        type=_padding,
        metavar="P",
        help="same, valid, P, vertical,horizontal or top,bottom,left,right; "
        "dilation * (kernel - 1) // 2 unless given",
    )
    add("--dilation", type=_ints(1, 2), default=(1,), metavar="D[,D]")
    add("--multiplier", type=int, default=1, metavar="M", help="output channels per input channel")
    add("--bias", action="store_true", help="with a bias")
    add("--activation", choices=[name for name in ACTIVATIONS if name])
    add("--dtype", choices=_DTYPES, default="float32")
    add("--layout", choices=["contiguous", "channels_last", "strided"], default="contiguous")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--backend", choices=list(registry.BACKENDS), default=registry.current())
    add("--pass", dest="passes", choices=PASSES, action="append", help="all unless given")
    add("--bandwidth", type=_positive, metavar="GB/s", help="with --throughput: print the floor")
    add("--throughput", type=_positive, metavar="GFLOP/s")
    add("--json", action="store_true", help="print JSON")
    explain.set_defaults(parser=explain)
    return parser


def _explain(options: argparse.Namespace) -> str:
    parser: argparse.ArgumentParser = options.parser
    kernel = options.kernel * (3 - len(options.kernel))
    dilation = options.dilation * (3 - len(options.dilation))
    padding = options.padding
    if padding is None:
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    ceilings = (options.bandwidth, options.throughput)
    if (ceilings[0] is None) != (ceilings[1] is None):
        parser.error("--bandwidth and --throughput go together")
    if min(kernel) < 1 or min(options.input) < 0 or options.multiplier < 1:
        parser.error("--kernel and --multiplier want 1 or more, --input wants 0 or more")
    try:
        params = resolve(kernel, options.stride, padding, dilation, options.activation)
        explanation = explain_sizes(
            options.input,
            (options.input[1] * options.multiplier, 1, *kernel),
            params,
            dtype=getattr(torch, options.dtype),
            layout=options.layout,
            device=options.device,
            has_bias=options.bias,
            backend=options.backend,
            passes=options.passes or PASSES,
            ceilings=None if ceilings[0] is None else (ceilings[0] * 1e9, ceilings[1] * 1e9),
        )
    except (RuntimeError, TypeError, ValueError) as error:
        parser.error(str(error))
    return json.dumps(explanation.to_dict()) if options.json else str(explanation)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (2 for bad arguments, from argparse)."""
    options = _parser().parse_args(arguments)
    if options.command == "explain":
        print(_explain(options))
        return 0
    report = info.doctor()
    print(json.dumps(report) if options.json else info.format_doctor(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
