"""Whether a thread goes on: it says so itself, another one looks."""

from __future__ import annotations

import time

__all__ = ["Pulse"]


class Pulse:
    """Signs of life of one thread.

    A thread beats wherever it asks whether to stop, which long work must do every few seconds
    anyhow, and rests before it waits for something to do. Assignments of one float need no lock.
    """

    def __init__(self) -> None:
        self._last_s: float | None = None

    def beat(self) -> None:
        """Say that the thread is at work and has come further."""
        self._last_s = time.monotonic()

    def rest(self) -> None:
        """Say that there is nothing to do: however long that lasts, it is no sign of trouble."""
        self._last_s = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat; 0 while the thread rests."""
        last_s = self._last_s
        return 0.0 if last_s is None else time.monotonic() - last_s
