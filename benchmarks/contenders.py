"""Who is compared: PyTorch in both layouts, torch.compile, and effkern in both layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from importlib.util import find_spec

import torch

import effkern
from effkern import _library

from .calls import Call, compiled_call, effkern_call, torch_call
from .problem import LAYOUTS, Problem, Tensors

LABELS = {
    "torch": "torch NCHW",
    "torch_channels_last": "torch channels_last",
    "torch_compile": "torch.compile",
    "effkern": "effkern NCHW",
    "effkern_channels_last": "effkern channels_last",
}
PEERS = ("torch", "torch.compile")
# Runtimes that no adapter exists for yet: name -> the module that carries it.
_OTHER_PEERS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "litert": "ai_edge_litert",
}


@dataclass(frozen=True)
class Contender:
    """A named way to compute a problem, in one memory layout."""

    name: str
    layout: str
    build: Callable[[Problem, Tensors], Call]
    backend: str | None = None

    def context(self) -> AbstractContextManager[None]:
        """Where its calls must be built and made."""
        return effkern.backend(self.backend) if self.backend else nullcontext()


def forced_backend(device: str) -> str:
    """The backend that effkern is held to: no fallback to torch can flatter or hide it."""
    return device if _library.available() else "auto"


def contenders(device: str, layouts: Sequence[str], peers: Sequence[str]) -> list[Contender]:
    """The contenders, torch first.

    Args:
        layouts: the layouts of effkern. Torch's better one is the yardstick, so it runs in both.
        peers: of `PEERS`.
    """
    chosen = []
    for layout in LAYOUTS if "torch" in peers else ():
        chosen.append(Contender(_name("torch", layout), layout, torch_call))
    if "torch.compile" in peers:
        chosen.append(Contender("torch_compile", "contiguous", compiled_call))
    backend = forced_backend(device)
    for layout in layouts:
        chosen.append(Contender(_name("effkern", layout), layout, effkern_call, backend))
    return chosen


def _name(family: str, layout: str) -> str:
    return family if layout == "contiguous" else f"{family}_{layout}"


def missing(peers: Sequence[str]) -> dict[str, str]:
    """The peers that were asked for and do not run, with the reason.

    Raises:
        ValueError: a peer is unknown.
    """
    reasons = {}
    for name in peers:
        if name in PEERS:
            continue
        if name not in _OTHER_PEERS:
            known = ", ".join([*PEERS, *_OTHER_PEERS])
            raise ValueError(f"--peers: wanted some of {known}, got {name!r}")
        installed = find_spec(_OTHER_PEERS[name]) is not None
        reasons[name] = "no adapter for it yet" if installed else "not installed"
    return reasons


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
