"""Keeping the process small: what the C library does with freed memory."""

from __future__ import annotations

import ctypes

__all__ = ["give_back", "share_one_heap"]

#: from glibc's malloc.h
_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Let all threads use one heap; call it before threads are started.

    By default glibc gives each thread a heap of its own, and what one has freed another cannot
    use. Other C libraries do without; nothing is done there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system, as after a large piece of work."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
