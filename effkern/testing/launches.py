"""The CUDA launches that a call makes, of any size and without a GPU: the launchers' own code runs,
in the emulated library, and writes them down instead of running them."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _library, registry


class Launch(NamedTuple):
    """One launch: `parameters` as the kernel finds them in memory, `shared_memory` the dynamic part
    in bytes."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_memory: int
    parameters: bytes

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def warps(self) -> int:
        """Of the whole grid."""
        return self.blocks * -(-self.block[0] * self.block[1] * self.block[2] // 32)


@cache
def _emulator() -> ctypes.CDLL:
    if error := _library.emulation_error():
        raise RuntimeError(f"recorded_launches: wanted the emulated library, got {error}")
    library = ctypes.CDLL(str(_library.emulation_path()))
    library.effkern_emulation_records.restype = ctypes.c_char_p
    return library


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """The launches of backend cuda_emulated inside the ``with`` block: checked, recorded, not run.
    The list is filled at its end. Tensors need memory, but nothing reads or writes it.

    Raises:
        RuntimeError: the emulated library is not there.
    """
    emulator = _emulator()
    launches: list[Launch] = []
    emulator.effkern_emulation_record(1)
    try:
        yield launches
    finally:
        emulator.effkern_emulation_record(0)
    for entry in json.loads(emulator.effkern_emulation_records()):
        parameters = bytes.fromhex(entry["parameters"])
        launches.append(
            Launch(
                entry["kernel"], tuple(entry["grid"]), tuple(entry["block"]),
                entry["shared_memory"], parameters,
            )
        )  # fmt: skip


def record_call(
    pass_: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_output: Tensor,
    geometry: tuple[int, ...],
) -> list[Launch]:
    """The launches of one pass of depthwise_conv2d, without activation.

    Args:
        pass_: "fwd", "dgrad" or "wgrad", which has the bias' gradient with it if there is a bias;
            "grads", both of them.
        input: (N, C, H, W). weight: (C * M, 1, kH, kW). bias: (C * M,). grad_output: as the output.
        geometry: stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h,
            dilation_w, in pixels.

    Raises:
        RuntimeError: the emulated library is not there.
    """
    operators, code = torch.ops.effkern_emulated, registry.BACKENDS["cuda_emulated"]
    with recorded_launches() as launches:
        if pass_ == "fwd":
            operators.depthwise_conv2d(input, weight, bias, *geometry, 0, code)
        else:
            wgrad = pass_ != "dgrad"
            wanted = (pass_ != "wgrad", wgrad, wgrad and bias is not None)
            operators.depthwise_conv2d_backward(
                grad_output, input, weight, *geometry, *wanted, code
            )
    return launches
