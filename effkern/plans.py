"""Plans as objects that print."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How one pass of an operator is computed. What is not known is None.

    Attributes:
        backend: "cpu", "cuda", "triton" or "torch" (PyTorch's own convolution).
        kernel: the name of the kernel.
        tile: what one register tile, thread block or program (rows x columns x channels) computes.
        grid: work units (cpu), thread blocks (cuda) or programs (triton).
        shared_memory: bytes for a thread block (cuda), what it asks for at its launch.
        scratch: bytes for a thread (cpu).
        workspace: bytes of temporary memory for the whole call.
        bytes: memory traffic that no implementation avoids: each tensor once.
        flops: two for each multiply-add on pixels inside the image.
        reason: why this backend and kernel.
        code: the kernel with its template arguments (cuda).
        dram_bytes: of device memory that is expected to be moved (cuda, triton).
        instructions_per_output: of lanes, on the layer `counted_for` (channels x height x width),
            whose machine code was followed; without activation (cuda, triton).
        predicted: seconds on the device `predicted_for`, by `effkern.prediction`; not measured.
    """

    backend: str
    kernel: str
    tile: str | None
    grid: int | None
    shared_memory: int | None
    scratch: int | None
    workspace: int | None
    bytes: int | None
    flops: int | None
    reason: str
    code: str | None = None
    dram_bytes: int | None = None
    instructions_per_output: float | None = None
    counted_for: str | None = None
    predicted: float | None = None
    predicted_for: str | None = None

    def floor(self, bandwidth: float, throughput: float) -> float | None:
        """Seconds that no implementation can beat, for ceilings in bytes/s and FLOP/s."""
        if self.bytes is None or self.flops is None:
            return None
        return max(self.bytes / bandwidth, self.flops / throughput)


@dataclass(frozen=True)
class Explanation:
    """The plans of one call; prints as a table.

    Attributes:
        op: the operator.
        problem: its sizes, dtype, layout and device by name.
        plans: a plan for each of "forward", "grad_input", "grad_weight"; with a LayerNorm also for
            "norm_backward".
        ceilings: (bytes/s, FLOP/s) to give floors for, or None.
    """

    op: str
    problem: dict[str, Any]
    plans: dict[str, Plan]
    ceilings: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON; floors in seconds."""
        result = asdict(self)
        if self.ceilings is not None:
            for name, plan in self.plans.items():
                result["plans"][name]["floor"] = plan.floor(*self.ceilings)
        return result

    def _sizes(self) -> str:
        p = self.problem
        shape = (p["batch"], p["in_channels"], p["height"], p["width"])
        pads = [p[f"pad_{side}"] for side in ("top", "bottom", "left", "right")]
        parts = [
            f"input {shape} {p['dtype']} {p['layout']} on {p['device']}",
            f"{p['out_channels']} output channels" if p["out_channels"] != shape[1] else "",
            f"kernel {p['kernel_h']}x{p['kernel_w']}",
            f"stride {p['stride_h']}x{p['stride_w']}",
            f"padding {'/'.join(map(str, pads))} (top/bottom/left/right)",
            f"dilation {p['dilation_h']}x{p['dilation_w']}",
            "bias" if p["has_bias"] else "",
            p["activation"] or "",
        ]
        return ", ".join(part for part in parts if part)

    def __str__(self) -> str:
        plans: dict[str, dict[str, Any]] = self.to_dict()["plans"]
        rows = [("", *plans)]
        for key in next(iter(plans.values())):
            values = [plan[key] for plan in plans.values()]
            if key != "reason" and any(value not in (None, "") for value in values):
                rows.append((key.replace("_", " "), *(_text(key, value) for value in values)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        reasons: dict[str, list[str]] = {}
        for name, plan in plans.items():
            reasons.setdefault(plan["reason"], []).append(name)
        return "\n".join(
            [
                f"{self.op}: {self._sizes()}",
                *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
                *(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()),
            ]
        )


def _text(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in ("floor", "predicted"):
        return f"{value * 1e6:.1f} us"
    return f"{value:,}" if isinstance(value, int) else str(value)
