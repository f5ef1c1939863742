"""Who is compared: PyTorch in both layouts, torch.compile, other runtimes, effkern in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch

import effkern
from effkern import _library

from . import peers as runtimes
from .calls import Call, compiled_call, effkern_call, torch_call
from .peers.process import PeerProcess, PeerTimed, builder
from .problem import LAYOUTS, Problem, Tensors
from .timing import Timed

LABELS = {
    "torch": "torch NCHW",
    "torch_channels_last": "torch channels_last",
    "torch_compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "litert": "LiteRT",
    "effkern": "effkern NCHW",
    "effkern_channels_last": "effkern channels_last",
    "effkern_triton": "effkern Triton NCHW",
    "effkern_triton_channels_last": "effkern Triton channels_last",
}
PEERS = ("torch", "torch.compile", *runtimes.REQUIRED)


def failed(cells: list[dict[str, Any]]) -> bool:
    """Whether a result of effkern or torch was wrong, or a call raised. Another runtime's has no
    time and is named by the report, and the run stands."""
    return any(row["failure"] and row["contender"] not in runtimes.REQUIRED for row in cells)


@dataclass(frozen=True)
class Contender:
    """A named way to compute a problem, in one memory layout.

    Attributes:
        backend: effkern's, to be held to; None for everybody else.
        timed: times its calls.
        limit: why it does not compute a problem; None if it does.
        trains: whether gradients run through it by autograd.
        close: ends what it has started.
    """

    name: str
    layout: str
    build: Callable[[Problem, Tensors], Call]
    backend: str | None = None
    timed: Callable[..., Timed] = Timed
    limit: Callable[[Problem], str | None] = lambda problem: None
    trains: bool = True
    close: Callable[[], None] = lambda: None

    def context(self) -> AbstractContextManager[None]:
        """Where its calls must be built and made."""
        return effkern.backend(self.backend) if self.backend else nullcontext()


def forced_backend(device: str) -> str:
    """The backend that effkern is held to: no fallback to torch can flatter or hide it."""
    return device if _library.available() else "auto"


def contenders(device: str, layouts: Sequence[str], peers: Sequence[str]) -> list[Contender]:
    """The contenders, torch first, those with processes of their own last.

    Args:
        layouts: the layouts of effkern. Torch's better one is the yardstick, so it runs in both.
        peers: of `PEERS`, without the missing.
    """
    chosen = []
    for layout in LAYOUTS if "torch" in peers else ():
        chosen.append(Contender(_name("torch", layout), layout, torch_call))
    if "torch.compile" in peers:
        chosen.append(Contender("torch_compile", "contiguous", compiled_call, trains=False))
    families = {"effkern": forced_backend(device)}
    if device == "cuda" and effkern.backends()["triton"] is True:
        families["effkern_triton"] = "triton"
    for family, backend in families.items():
        for layout in layouts:
            chosen.append(Contender(_name(family, layout), layout, effkern_call, backend))
    return chosen + [_runtime(name) for name in runtimes.REQUIRED if name in peers]


def _runtime(name: str) -> Contender:
    process = PeerProcess(name)
    return Contender(
        name, runtimes.LAYOUT[name], builder(process), timed=PeerTimed,
        limit=lambda problem: runtimes.limit(name, problem.pass_, problem.dtype, problem.batch),
        trains=False, close=process.close,
    )  # fmt: skip


@contextmanager
def closing(contenders: Sequence[Contender]) -> Iterator[None]:
    """Ends in the end what contenders have started."""
    try:
        yield
    finally:
        for contender in contenders:
            contender.close()


def limits(contenders: Sequence[Contender], problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Name -> why a contender does not compute some of the problems."""
    found = {c.name: sorted({c.limit(p) for p in problems} - {None}) for c in contenders}
    return {name: reasons for name, reasons in found.items() if reasons}


def _name(family: str, layout: str) -> str:
    return family if layout == "contiguous" else f"{family}_{layout}"


def missing(peers: Sequence[str], device: str, cold: bool = False) -> dict[str, str]:
    """The peers that were asked for and do not run at all, with the reason.

    Raises:
        ValueError: a peer is unknown.
    """
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise ValueError(f"--peers: wanted some of {', '.join(PEERS)}, got {unknown[0]!r}")
    others = [name for name in peers if name in runtimes.REQUIRED]
    reasons = {name: runtimes.absence(name, device, cold) for name in others}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def auto_choice(problem: Problem, layout: str) -> dict[str, str] | None:
    """What backend "auto" would run: backend, kernel and reason; None without the planner."""
    try:
        from effkern import _C
    except ImportError:
        return None
    layer = problem.layer
    names = {"fwd": "forward", "dgrad": "grad_input", "wgrad": "grad_weight"}
    # The rest of the layer's fields have the planner's names.
    others = ("channels", "multiplier", "bias")
    sizes = {f.name: getattr(layer, f.name) for f in fields(layer) if f.name not in others}
    planned = _C.DepthwiseConv2dProblem(
        pass_=names[problem.pass_],
        dtype=problem.dtype,
        device=problem.device,
        layout=layout,
        batch=problem.batch,
        in_channels=layer.channels,
        out_channels=layer.out_channels,
        has_bias=layer.bias and problem.pass_ == "fwd",
        **sizes,
    )
    plan = _C.plan_depthwise_conv2d(planned, backend="auto", threads=torch.get_num_threads())
    return {"backend": plan.backend, "kernel": plan.kernel, "reason": plan.reason}
