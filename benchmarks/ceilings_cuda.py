"""The ceilings of a GPU: matrix product, copies in device memory, a copy within the L2 cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .ceilings import MIB, Ceilings, never_rising
from .timing_cuda import seconds

_SIDE = 8192
# Working sets that no L2 cache holds.
_SIZES = (512 * MIB, 2048 * MIB, 8192 * MIB)
# Elements of a program's step, and how often the cache is copied by one launch.
_BLOCK, _ROUNDS = 4096, 200


def _best_rate(work: Callable[[], object], amount: float, repeats: int = 10) -> float:
    """amount per second, in the fastest of six runs of `repeats`."""
    seconds(work, repeats)
    return amount * repeats / min(seconds(work, repeats) for _ in range(6))


def matrix_product(dtype: torch.dtype, side: int = _SIDE) -> float:
    """FLOP/s of torch's product of random matrices: zeros run faster than data."""
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return _best_rate(partial(torch.mm, a, b, out=out), 2 * side**3)


def copy(size: int) -> float:
    """Bytes read and written per second by torch's copy of a working set of `size` bytes."""
    source = torch.randn(size // 8, device="cuda")
    return _best_rate(partial(torch.empty_like(source).copy_, source), size)


def cached_copy() -> float | None:
    """The same of a third of the L2 cache, by one launch that copies it many times.

    None without Triton.
    """
    try:
        from .cache_copy_kernel import copy_kernel
    except ImportError:
        return None
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    blocks = device.L2_cache_size // 3 // 8 // _BLOCK
    source = torch.randn(blocks * _BLOCK, device="cuda")
    target = torch.empty_like(source)
    programs = 8 * device.multi_processor_count

    def work() -> None:
        copy_kernel[(programs,)](source, target, blocks, blocks * _ROUNDS, BLOCK=_BLOCK)

    rate = _best_rate(work, 8 * blocks * _BLOCK * _ROUNDS, repeats=1)
    if not torch.equal(source, target):
        raise RuntimeError("ceilings: wanted a copy within the L2 cache, got other numbers")
    return rate


def measure(dtype: torch.dtype) -> Ceilings:
    """Of the current device; some seconds."""
    free = torch.cuda.mem_get_info()[0]
    sizes = [size for size in _SIZES if 2 * size < free] or [free // 4 // 8 * 8]
    how = {
        "flops": f"torch matrix product of random {_SIDE}^2 {dtype} matrices, best of 6 runs of 10",
        "copies": "torch.Tensor.copy_, best of 6 runs of 10",
        "cached": "Triton copy of a third of the L2 cache, many times in one launch, best of 6",
    }
    rates = never_rising([(size, copy(size)) for size in sizes])
    return Ceilings(matrix_product(dtype), rates, how, cached_copy())
