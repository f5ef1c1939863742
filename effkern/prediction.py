"""Predicted time of GPU kernels: one formula, changed only with measurements on hardware.

A launch takes as long as the busiest unit of the device needs for its share, at three quarters of
that unit's rate (DRAM: at the rate of a copy), and never less than a launch costs. Launches of one
call run one after the other. Latency, imbalance and caches beyond the L2 rule of `dram_bytes` are
not in it. What it predicts has not been measured.

What a kernel executes is known from its machine code for the layers of real models, per pixel of
the result: predicted_costs.csv, which tools/predicted_costs.py makes of the published predictions.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

# Of a unit's rate, what kernels reach that are limited by it.
EFFICIENCY = 0.75
# Seconds.
LAUNCH = 3e-6
WARP = 32
# Bytes that one pass through the banks of shared memory moves.
WAVEFRONT = 128


@dataclass(frozen=True)
class Ceilings:
    """Rates of a device, per second unless said otherwise.

    Attributes:
        copy: bytes of device memory, read and written. l2: bytes. l2_bytes: its size.
        multiprocessors, clock: count, cycles. mma: 16-bit FLOPs of mma.sync.
        sources: of each figure, in words.
    """

    name: str
    capability: int
    copy: float
    l2: float
    l2_bytes: int
    multiprocessors: int
    clock: float
    mma: float
    sources: dict[str, str]

    @property
    def issue(self) -> float:
        """Lane instructions: four warps a cycle and multiprocessor."""
        return 4 * WARP * self.multiprocessors * self.clock

    @property
    def shared(self) -> float:
        """Bytes of shared memory."""
        return WAVEFRONT * self.multiprocessors * self.clock

    @property
    def special(self) -> float:
        """Special functions (exp2, reciprocal, ...) of lanes: 16 a cycle and multiprocessor."""
        return 16 * self.multiprocessors * self.clock


H200 = Ceilings(
    name="H200",
    capability=90,
    copy=4.3e12,
    l2=5.5e12,
    l2_bytes=60 << 20,
    multiprocessors=132,
    clock=1.755e9,
    mma=600e12,
    sources={
        "copy": "device-to-device copy, measured on such a card",
        "l2": "from memory: to be measured",
        "l2_bytes": "measured on such a card",
        "multiprocessors": "datasheet",
        "clock": "base for the issue rate of 29.6e12 lane instructions per second",
        "mma": "mma.sync in bfloat16, from memory: to be measured",
    },
)
A100 = Ceilings(
    name="A100",
    capability=80,
    copy=2.039e12,
    l2=5120 * 1.41e9,
    l2_bytes=40 << 20,
    multiprocessors=108,
    clock=1.41e9,
    mma=312e12,
    sources={
        "copy": "peak of the memory of the 80 GB card, datasheet; a copy reaches less",
        "l2": "5120 bytes a cycle, vendor's white paper",
        "l2_bytes": "datasheet",
        "multiprocessors": "datasheet",
        "clock": "boost, datasheet",
        "mma": "dense bfloat16, datasheet",
    },
)
BY_CAPABILITY = {ceilings.capability: ceilings for ceilings in (A100, H200)}


@dataclass(frozen=True)
class Work:
    """What one launch does.

    Attributes:
        instructions: issued by warps. dram_bytes, l2_bytes: moved, see `dram_bytes`.
        shared_wavefronts: passes through the banks of shared memory.
        mma_flops: of tensor cores. special_functions: of lanes.
    """

    instructions: float
    dram_bytes: float
    l2_bytes: float
    shared_wavefronts: float = 0.0
    mma_flops: float = 0.0
    special_functions: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """Seconds.

    Attributes:
        time: of all launches. floor: of the bytes that any kernel has to move, at the rate of a
            copy. bound: the term that makes most of the time. launches: the terms of each by name.
    """

    time: float
    floor: float
    bound: str
    launches: tuple[dict[str, float], ...]

    @property
    def terms(self) -> dict[str, float]:
        """Added over launches."""
        return {name: sum(found[name] for found in self.launches) for name in self.launches[0]}

    @property
    def over_floor(self) -> float:
        return self.time / self.floor


def dram_bytes(touched: float, distinct: float, window: float, ceilings: Ceilings) -> float:
    """Bytes of device memory that blocks cause which touch `touched` bytes, each once, of which
    `distinct` are different ones.

    Args:
        window: bytes that are touched between two accesses of the same bytes by neighbouring
            blocks: what is read again comes from L2 if the window fits there.
    """
    return distinct if window <= ceilings.l2_bytes else max(touched, distinct)


def terms(work: Work, ceilings: Ceilings) -> dict[str, float]:
    """Seconds that each unit needs for a launch, at the rate that kernels reach."""
    wavefront_bytes = WAVEFRONT * work.shared_wavefronts
    return {
        "DRAM": work.dram_bytes / ceilings.copy,
        "issue": WARP * work.instructions / (EFFICIENCY * ceilings.issue),
        "L2": work.l2_bytes / (EFFICIENCY * ceilings.l2),
        "shared memory": wavefront_bytes / (EFFICIENCY * ceilings.shared),
        "tensor cores": work.mma_flops / (EFFICIENCY * ceilings.mma),
        "special functions": work.special_functions / (EFFICIENCY * ceilings.special),
        "launch": LAUNCH,
    }


def predict(launches: Sequence[Work], distinct_bytes: float, ceilings: Ceilings) -> Prediction:
    """The time of a call.

    Args:
        launches: at least one.
        distinct_bytes: of operands and result, each once.

    Raises:
        ValueError: no launch, or no bytes.
    """
    if not launches or distinct_bytes <= 0:
        raise ValueError(
            "effkern.prediction.predict: wanted launches and bytes, got "
            f"{len(launches)} launches and {distinct_bytes} bytes"
        )
    each = tuple(terms(work, ceilings) for work in launches)
    longest = max(each, key=lambda found: max(found.values()))
    return Prediction(
        time=sum(max(found.values()) for found in each),
        floor=distinct_bytes / ceilings.copy,
        bound=max(longest, key=longest.__getitem__),
        launches=each,
    )


# Of predicted_costs.csv, at most so many times the height and width of the problem, or as small.
_NEAR = 2.0
_COSTS = Path(__file__).with_name("predicted_costs.csv")
# Kernels of the one differ from those of the other in conversions only.
_COUNTED_AS = {"float16": "bfloat16"}


class Rates(NamedTuple):
    """What a launch does for each pixel and channel of a call's result (of the output for a weight
    gradient), without activation.

    Attributes:
        instructions: of lanes. l2_bytes, shared_bytes: moved. mma_flops, special_functions.
    """

    instructions: float
    l2_bytes: float
    shared_bytes: float
    mma_flops: float
    special_functions: float


@dataclass(frozen=True)
class Costs:
    """What a call does.

    Attributes:
        layer: (channels, height, width) of the input that it was counted for. code: the name of
            the kernel that does most, with its template arguments. launches: in their order.
            main: the index of the one that moves the operands and the result.
    """

    layer: tuple[int, int, int]
    code: str
    launches: tuple[Rates, ...]
    main: int = 0

    @property
    def instructions(self) -> float:
        """Of lanes, for each pixel and channel, over all launches."""
        return sum(rates.instructions for rates in self.launches)

    @property
    def l2_bytes(self) -> float:
        return sum(rates.l2_bytes for rates in self.launches)

    def works(
        self, outputs: float, distinct: float, window: float, ceilings: Ceilings
    ) -> list[Work]:
        """Of a call's launches. What the others than `main` read has just been written, and comes
        from L2 if it fits.

        Args:
            outputs: pixels and channels of the result. distinct, window: see `dram_bytes`; no more
                than what goes through L2 comes from device memory.
        """
        found = []
        for index, rates in enumerate(self.launches):
            moved = rates.l2_bytes * outputs
            memory = (distinct, window) if index == self.main else (0.0, moved)
            found.append(
                Work(
                    instructions=rates.instructions * outputs / WARP,
                    dram_bytes=dram_bytes(moved, *memory, ceilings),
                    l2_bytes=moved,
                    shared_wavefronts=rates.shared_bytes * outputs / WAVEFRONT,
                    mma_flops=rates.mma_flops * outputs,
                    special_functions=rates.special_functions * outputs,
                )
            )
        return found


@cache
def _all_costs() -> dict[tuple[str, ...], list[Costs]]:
    # A line for each launch of a call.
    calls: dict[tuple[str, ...], list[Rates]] = {}
    mains: dict[tuple[str, ...], int] = {}
    fields = len(Rates._fields)
    with _COSTS.open(newline="") as file:
        for line in list(csv.reader(file))[1:]:
            *call, _launch, reads_operands = line[:-fields]
            launches = calls.setdefault(tuple(call), [])
            if reads_operands == "1":
                mains[tuple(call)] = len(launches)
            launches.append(Rates(*map(float, line[-fields:])))
    found: dict[tuple[str, ...], list[Costs]] = {}
    for counted, launches in calls.items():
        *key, layer, code = counted
        channels, height, width = map(int, layer.split("x"))
        costs = Costs((channels, height, width), code, tuple(launches), mains[counted])
        found.setdefault(tuple(key), []).append(costs)
    return found


def known_costs(backend: str, problem: Mapping[str, Any], code: str | None = None) -> Costs | None:
    """Those of the layer whose size is nearest, or None if none is near.

    Args:
        backend: "cuda" or "triton". problem: as in :class:`effkern.explanation.Explanation`, with
            "pass_". code: the kernel of a call by its name, where that is known.
    """
    p = problem
    if (p["dilation_h"], p["dilation_w"]) != (1, 1) or p["out_channels"] != p["in_channels"]:
        return None
    dtype = _COUNTED_AS.get(p["dtype"], p["dtype"])
    kernel, stride = (f"{p[f'{name}_h']}x{p[f'{name}_w']}" for name in ("kernel", "stride"))
    rows = _all_costs().get((backend, p["pass_"], dtype, p["layout"], kernel, stride), ())
    wanted = code and code.replace(p["dtype"], dtype)

    def distance(costs: Costs) -> tuple[float, float]:
        channels, height, width = costs.layer
        ratios = (math.log(p["height"] / height), math.log(p["width"] / width))
        return max(map(abs, ratios)), abs(math.log(p["in_channels"] / channels))

    near = [row for row in rows if wanted in (None, row.code)]
    near = [row for row in near if distance(row)[0] <= math.log(_NEAR)]
    if not near:
        return None
    found = min(near, key=distance)
    return replace(found, code=found.code.replace(dtype, p["dtype"]))


def predict_call(
    costs: Costs, outputs: int, distinct: float, images: int, ceilings: Ceilings
) -> tuple[Prediction, float]:
    """Its time, and the bytes of device memory that it moves.

    Args:
        outputs: see `Costs.works`. distinct: bytes of operands and result, each once. images: of
            the batch; blocks of one run together.
    """
    works = costs.works(outputs, distinct, distinct / images, ceilings)
    return predict(works, distinct, ceilings), sum(work.dram_bytes for work in works)
