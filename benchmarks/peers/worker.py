"""The process of a peer: builds layers, runs them and times blocks of calls, as it is told.

``python -m benchmarks.peers.worker NAME DESCRIPTOR``; the descriptor is that of an inherited pipe.
A request is (method, arguments); the answer is (None, result) or (what was raised, None).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .. import blocks
from .model import Model, Operands


class Worker:
    """What a peer can be asked."""

    def __init__(self, name: str) -> None:
        self.adapter = import_module(f"{__package__}.{name}")
        self.model: Model | None = None

    def build(self, operands: Operands, threads: int) -> None:
        # The model before goes first, and its pool of threads with it.
        self.model = None
        self.model = self.adapter.build(operands, threads)

    def output(self) -> np.ndarray:
        self.model.call()
        return np.array(self.model.output())

    def probe(self) -> float:
        return blocks.probe([self.model.call])

    def block(self, count: int, guess: float) -> blocks.Block:
        with blocks.no_garbage_collection():
            return blocks.block([self.model.call], count, guess)

    def rest(self) -> None:
        blocks.rest()


def _answer(worker: Worker, method: str, arguments: tuple[Any, ...]) -> tuple[str | None, Any]:
    # A runtime may raise anything; that is its result.
    try:
        return None, getattr(worker, method)(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}", None


def main(name: str, descriptor: int) -> None:
    """Answers until the other side closes the pipe."""
    connection = Connection(descriptor)
    worker = None
    try:
        while True:
            method, arguments = connection.recv()
            try:
                worker = worker or Worker(name)
            except Exception as error:
                connection.send((f"{type(error).__name__}: {error}", None))
                continue
            connection.send(_answer(worker, method, arguments))
    except EOFError:
        pass
    # Without the runtimes' own endings, some of which complain or crash.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
