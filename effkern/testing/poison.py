"""Memory that gives mistakes away: fresh memory full of NaN, and views among sentinels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# From glibc's malloc.h.
_M_PERTURB = -6
# malloc fills fresh memory with the complement of this value's low byte, and only if the value is
# not zero: 256 gives 0xFF bytes, which are NaN in every floating-point type.
_FILL_WITH_NAN = 256

_CUDA_SMALL_BLOCK = 1 << 20
_CUDA_SMALL_BLOCKS = 32
_CUDA_LARGE_BLOCK = 256 << 20


def _perturb(value: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_PERTURB, value) == 1


def _poison_cuda_cache() -> None:
    # Blocks that are freed stay in the caching allocator, which hands them out again as they are.
    blocks = [
        torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")
        for size in [_CUDA_SMALL_BLOCK] * _CUDA_SMALL_BLOCKS + [_CUDA_LARGE_BLOCK]
    ]
    torch.cuda.synchronize()
    del blocks


@contextmanager
def poisoned_memory(device: str = "cpu") -> Iterator[None]:
    """Fresh memory is full of NaN inside the ``with`` block.

    That holds for host memory however it is allocated: by torch, by a kernel's own scratch buffers
    and by the C shim's ``aoti_torch_empty_strided``, which
    ``torch.utils.deterministic.fill_uninitialized_memory`` does not reach. A block of less than
    about a KiB may now and then come out of malloc's cache of its thread, unfilled. On CUDA the
    blocks that torch's caching allocator holds are filled, once, at the beginning.

    Raises:
        RuntimeError: the C library cannot fill the memory it hands out (it is not glibc).
    """
    if not _perturb(_FILL_WITH_NAN):
        raise RuntimeError("poisoned_memory: wanted glibc's mallopt(M_PERTURB), got another malloc")
    try:
        if torch.device(device).type == "cuda":
            _poison_cuda_cache()
        yield
    finally:
        _perturb(0)


class SentinelBuffer:
    """A tensor inside a larger buffer, whose other bytes must survive.

    Args:
        source: gives shape, values, dtype and device; its strides are kept if they are dense.
        offset: storage offset of the view, in elements.
        guard: elements before the offset and behind the view.

    `view` has the values of `source` and starts `guard + offset` elements into the buffer. The
    sentinels are NaN, so reading them shows as well.
    """

    def __init__(self, source: Tensor, offset: int = 0, guard: int = 64) -> None:
        strides = torch.empty_like(source, memory_format=torch.preserve_format).stride()
        start = guard + offset
        self._bytes = torch.full(
            ((start + source.numel() + guard) * source.element_size(),),
            0xFF,
            dtype=torch.uint8,
            device=source.device,
        )
        buffer = self._bytes.view(source.dtype)
        self.view = buffer.as_strided(source.shape, strides, start).copy_(source)
        self._before = self._bytes.clone()

    def assert_unchanged(self, what: str = "buffer") -> None:
        """Asserts that neither the sentinels nor the values of `view` were written to."""
        changed = (self._bytes != self._before).nonzero().flatten()
        if changed.numel() == 0:
            return
        first = int(changed[0])
        begin = self.view.storage_offset() * self.view.element_size()
        raise AssertionError(
            f"{what}: {changed.numel()} bytes were overwritten, the first {first - begin} bytes "
            f"from the start of the view: wanted {int(self._before[first]):#04x}, "
            f"got {int(self._bytes[first]):#04x}"
        )

    def __enter__(self) -> SentinelBuffer:
        return self

    def __exit__(self, exception_type: object, *_: object) -> None:
        if exception_type is None:
            self.assert_unchanged()
