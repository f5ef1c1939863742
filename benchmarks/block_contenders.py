"""Who is compared on blocks: forward passes in eval mode, float32, on the CPU.

BatchNorm is folded for everybody, so that no one is faster for that alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import effkern

from . import peers as runtimes
from .blocks import Call
from .contenders import forced_backend
from .peers.model import Exported
from .peers.process import PeerCall, PeerProcess, PeerTimed
from .timing import Timed, probe, quiet

# Runtimes that are listed beside the others, as nobody's best peer, because their default is a
# Winograd beyond the bound; and the error in norm up to which they are: half of the digits.
UNRANKED = {"ncnn": torch.finfo(torch.float32).eps ** 0.5}


@dataclass(frozen=True)
class Contender:
    """A named way to compute a block.

    Attributes:
        build: from the folded block and a contiguous input to a call and the layout it runs in.
        timed: times its calls.
        limit: why it does not compute a batch of this size; None if it does.
        tolerated: the error in norm up to which it is timed, beyond the bound of everybody.
        context: where its calls must be made.
        close: ends what it has started.
    """

    name: str
    build: Callable[[nn.Module, Tensor], tuple[Call, str]]
    timed: Callable[..., Timed] = Timed
    limit: Callable[[int], str | None] = lambda batch: None
    tolerated: float = 0.0
    context: Callable[[], effkern.backend] = partial(effkern.backend, "auto")  # type: ignore[valid-type]
    close: Callable[[], None] = lambda: None


def in_layout(module: nn.Module, input: Tensor, layout: str) -> partial[Tensor]:
    memory_format = getattr(
        torch, "contiguous_format" if layout == "contiguous" else "channels_last"
    )
    module = module.to(memory_format=memory_format)
    return partial(module, input.contiguous(memory_format=memory_format))


def _eager(layout: str, module: nn.Module, input: Tensor) -> tuple[Call, str]:
    return in_layout(module, input, layout), layout


def _converted(layout: str, module: nn.Module, input: Tensor) -> tuple[Call, str]:
    return in_layout(effkern.convert(module), input, layout), layout


def _compiled(module: nn.Module, input: Tensor) -> tuple[Call, str]:
    """In eager PyTorch's better layout; compiled by the first call."""
    layouts = ("contiguous", "channels_last")
    with quiet():
        times = {k: probe([in_layout(module, input, k)]) for k in layouts}
    layout = min(times, key=times.__getitem__)
    torch._dynamo.reset()
    call = in_layout(module, input, layout)
    return partial(torch.compile(call.func, fullgraph=True), *call.args), layout  # type: ignore[attr-defined]


def _runtime(process: PeerProcess, module: nn.Module, input: Tensor) -> tuple[Call, str]:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter to TorchScript is deprecated, and the only one without further packages.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (input,), file, dynamo=False, opset_version=17, input_names=["x"],
            output_names=["y"],
        )  # fmt: skip
        shape = tuple(module(input).shape)
    process.ask("build", Exported(input.numpy(), shape, file.getvalue()), torch.get_num_threads())
    return PeerCall(process), runtimes.LAYOUT[process.name]


def contenders(peers: Sequence[str]) -> list[Contender]:
    """Torch first, those with processes of their own last."""
    chosen = []
    for name, layout in (("torch", "contiguous"), ("torch_channels_last", "channels_last")):
        if "torch" in peers:
            chosen.append(Contender(name, partial(_eager, layout)))
    if "torch.compile" in peers:
        chosen.append(Contender("torch_compile", _compiled))
    held = partial(effkern.backend, forced_backend("cpu"))
    for name, layout in (("effkern", "contiguous"), ("effkern_channels_last", "channels_last")):
        chosen.append(Contender(name, partial(_converted, layout), context=held))
    return chosen + [_process(name) for name in runtimes.REQUIRED if name in peers]


def _process(name: str) -> Contender:
    process = PeerProcess(name)
    return Contender(
        name, partial(_runtime, process), timed=PeerTimed,
        limit=partial(runtimes.limit, name, "fwd", "float32"), tolerated=UNRANKED.get(name, 0.0),
        close=process.close,
    )  # fmt: skip


def limits(chosen: Sequence[Contender], batches: Sequence[int]) -> dict[str, list[str]]:
    """Name -> why a contender does not compute some of the batches."""
    found = {c.name: sorted({c.limit(n) for n in batches} - {None}) for c in chosen}
    return {name: reasons for name, reasons in found.items() if reasons}
