"""How fast the worker may go, asked wherever long work can be left."""

from __future__ import annotations

import threading
import time

from edge_runtime.device.governor import Level
from edge_runtime.process import Pulse

__all__ = ["Pace"]

#: seconds of rest per second of work while the level is *slow*: a quarter of the time is work
_REST = 3.0
#: longest rest at once, so that a level that has passed is noticed (seconds)
_MOST_REST_S = 5.0


class Pace:
    """The one question that all long work asks every few seconds at most: `should_leave`.

    Parameters
    ----------
    stop : threading.Event
        Set when the process is to end.

    Attributes
    ----------
    level, shown : Level
        How the worker works, and what others may know of it. Set by the agent's thread.
    pulse : Pulse
        Of the worker: each question is a sign of life.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._since_s = time.monotonic()
        self.level = self.shown = Level.OK
        self.pulse = Pulse()

    def is_paused(self) -> bool:
        """Whether no work is to be done at all."""
        return self.level is Level.PAUSED

    def begin(self) -> None:
        """Work begins, or goes on after a wait."""
        self.pulse.beat()
        self._since_s = time.monotonic()

    def should_leave(self) -> bool:
        """Whether work is to save itself and return; rests first while the level is *slow*."""
        if self.level is Level.SLOW:
            worked_s = time.monotonic() - self._since_s
            # The rest ends at once when the process is told to.
            self._stop.wait(min(_REST * worked_s, _MOST_REST_S))
        self.begin()
        return self._stop.is_set() or self.is_paused()
