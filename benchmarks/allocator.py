"""The allocator's state, which decides whether a large output costs page faults in every call."""

from __future__ import annotations

import ctypes

# glibc's names for the parameters of mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_blocks() -> bool:
    """Makes glibc keep freed blocks of any size for the process; whether it does so.

    By default it returns blocks above 32 MiB to the system, whose next use then costs a page fault
    every 4 KiB: two gigabytes per second, whatever the kernel is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))


def release_freed_blocks() -> None:
    """Gives freed memory back to the system, once: between cells, so that the blocks that one of
    them needed do not add up with those of the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
