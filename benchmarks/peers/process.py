"""The side of the benchmark: a peer's process, and its calls as a contender's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ..blocks import Block, Call
from ..problem import Problem, Tensors
from ..timing import Timed
from .model import Operands

_ROOT = Path(__file__).parents[2]
# Seconds after which a peer that does not answer is given up.
_PATIENCE = 120.0


class PeerProcess:
    """A process with one runtime in it, which starts when it is first needed, or again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "benchmarks.peers.worker", self.name]
        # The output of this process may be JSON; runtimes print what they like.
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno())], cwd=_ROOT, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker returns.

        Raises:
            RuntimeError: the method raised something, the process ended, or it does not answer.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(_PATIENCE):
                self.close()
                raise RuntimeError(f"{self.name}: no answer in {_PATIENCE:.0f} s")
            error, value = self._connection.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            self.close()
            raise RuntimeError(f"{self.name}: its process ended with status {status}") from None
        if error is not None:
            raise RuntimeError(f"{self.name}: {error}")
        return value


class PeerCall:
    """A layer in a peer's process; called, it returns the output as a tensor."""

    def __init__(self, process: PeerProcess) -> None:
        self.process = process

    def __call__(self) -> torch.Tensor:
        return torch.from_numpy(self.process.ask("output"))


class PeerTimed(Timed):
    """Times the calls where they are made."""

    def __init__(
        self, calls: Sequence[Call], context: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(calls, context, process=calls[0].process)

    def probe(self) -> float:
        return self.process.ask("probe")

    def block(self, count: int, guess: float) -> Block:
        return self.process.ask("block", count, guess)

    def rest(self) -> None:
        self.process.ask("rest")


def builder(process: PeerProcess) -> Callable[[Problem, Tensors], Call]:
    """How a contender in that process is built."""

    def build(problem: Problem, tensors: Tensors) -> Call:
        bias = None if tensors.bias is None else tensors.bias.numpy()
        images, weight = tensors.input.contiguous().numpy(), tensors.weight.contiguous().numpy()
        operands = Operands(problem.layer, images, weight, bias)
        process.ask("build", operands, torch.get_num_threads())
        return PeerCall(process)

    return build
