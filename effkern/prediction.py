"""Predicted time of GPU kernels: one formula, changed only with measurements on hardware.

A launch takes as long as the busiest unit of the device needs for its share, at three quarters of
that unit's rate (DRAM: at the rate of a copy), and never less than a launch costs. Launches of one
call run one after the other. Latency, imbalance and caches beyond the L2 rule of `dram_bytes` are
not in it. What it predicts has not been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
            copy. bound: the term that makes most of the time. terms: by name, added over launches.
    """

    time: float
    floor: float
    bound: str
    terms: dict[str, float]

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
    each = [terms(work, ceilings) for work in launches]
    longest = max(each, key=lambda found: max(found.values()))
    return Prediction(
        time=sum(max(found.values()) for found in each),
        floor=distinct_bytes / ceilings.copy,
        bound=max(longest, key=longest.__getitem__),
        terms={name: sum(found[name] for found in each) for name in each[0]},
    )
