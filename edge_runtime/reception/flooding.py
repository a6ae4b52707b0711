"""Which devices send more than their share, in words: for the log and for `aggregator status`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge_runtime.reception.arrivals import Arrivals, Excess

__all__ = ["Flooding"]

_LOG = logging.getLogger(__name__)
#: a flood lasts, and is named once in so many seconds
_SAY_AGAIN_S = 60.0


class Flooding:
    """Looks at what was not held.

    Parameters
    ----------
    arrivals : Arrivals
    clock : callable () -> float
        Seconds that never go back.
    """

    def __init__(self, arrivals: Arrivals, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._arrivals = arrivals
        self._clock = clock
        self._said: dict[str, tuple[Excess, float]] = {}
        self._overflow, self._full_s = 0, -_SAY_AGAIN_S

    def news(self) -> dict[str, str]:
        """Return what is to be said now: of devices with more excess than when last named."""
        now_s, found = self._clock(), {}
        overflow = self._arrivals.overflow
        if overflow > self._overflow and now_s - self._full_s >= _SAY_AGAIN_S:
            self._overflow, self._full_s = overflow, now_s
            _LOG.warning("the inbox is full; so far %d messages have to come again", overflow)
        for device, excess in self._arrivals.excess().items():
            before, said_s = self._said.get(device, (None, -_SAY_AGAIN_S))
            if excess == before or now_s - said_s < _SAY_AGAIN_S:
                continue
            self._said[device] = (excess, now_s)
            found[device] = _words(excess)
            _LOG.warning("%s %s", device, found[device])
        return found


def _words(excess: Excess) -> str:
    return (
        f"sends more than its share: {excess.messages:,} messages, {excess.bytes / 1e6:,.1f} MB "
        "not taken, and not acknowledged"
    )
