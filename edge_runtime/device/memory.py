"""Keeping the process small: what the C library does with freed memory."""

from __future__ import annotations

import ctypes

__all__ = ["give_back", "hold_little"]

#: from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: glibc's own first value, in bytes
_LARGE = 128 << 10


def hold_little() -> None:
    """Let freed memory go back to the system; call it before threads are started.

    glibc gives each thread a heap of its own, and what one has freed another cannot use. And a
    large array that is freed tells it to take the next one from the heap, up to 32 MB: training
    then leaves holes there that nothing fills, 1 to 9 MB of them, more on some runs than on
    others. Naming a threshold switches that off: large arrays are mapped, and gone when freed.
    Other C libraries do without; nothing is done there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return freed memory to the system, as after a large piece of work."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
