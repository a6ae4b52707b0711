"""What the device shows of itself: one state, published at most twice a second.

Any thread may change the state; one thread publishes it. Nothing here may hold a statistic of real
rows: the fields are those of `DeviceState`, and reasons come from `EdgeRuntimeError.public`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from edge_runtime.device.outbox import Outbox
from edge_runtime.device.store import Store
from edge_runtime.messages import DeviceState

__all__ = ["Reporter", "show_outbox"]

#: as in `DeviceState.reason`
_REASON_CHARACTERS = 2000


class Reporter:
    """Collects changes and says when the next state is due.

    Parameters
    ----------
    first : DeviceState
        The state to begin with.
    interval_s : float
        Shortest time between two published states.
    on_change : callable (), optional
        Called from the changing thread for the first change after a state was published: the
        publishing thread then asks `wait_s`.
    """

    def __init__(
        self,
        *,
        first: DeviceState,
        interval_s: float = 0.5,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._state = first
        self._on_change = on_change
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._dirty = True
        self._published_s: float | None = None

    def set(self, **changes: Any) -> bool:
        """Change fields; return whether anything is different now."""
        if "reason" in changes:
            changes["reason"] = str(changes["reason"])[:_REASON_CHARACTERS]
        with self._lock:
            changed = msgspec.structs.replace(self._state, **changes)
            if changed == self._state:
                return False
            first = not self._dirty
            self._state = changed
            self._dirty = True
        if first and self._on_change is not None:
            self._on_change()
        return True

    @property
    def state(self) -> DeviceState:
        """The state as it is now, published or not."""
        with self._lock:
            return self._state

    def again(self) -> None:
        """Make the state due even if it did not change, as after a reconnect."""
        with self._lock:
            self._dirty = True
            self._published_s = None

    def due(self, *, now_s: float) -> DeviceState | None:
        """Return the state when it is to be published now, else None.

        Parameters
        ----------
        now_s : float
            A monotonic clock.
        """
        with self._lock:
            early = self._published_s is not None and now_s - self._published_s < self._interval_s
            if not self._dirty or early:
                return None
            self._dirty = False
            self._published_s = now_s
            return self._state

    def wait_s(self, *, now_s: float) -> float | None:
        """Seconds until a changed state may be published, or None when nothing changed."""
        with self._lock:
            if not self._dirty:
                return None
            if self._published_s is None:
                return 0.0
            return max(0.0, self._published_s + self._interval_s - now_s)


def show_outbox(reporter: Reporter, outbox: Outbox, store: Store) -> None:
    """Bring what waits and what was sent into the state; with an empty outbox work is done."""
    waiting = len(outbox)
    reporter.set(
        outbox=waiting,
        bytes_up=store.counter("outbox.bytes_up"),
        rows_sent=store.counter("outbox.rows_accepted"),
    )
    if not waiting and reporter.state.status == "sending":
        reporter.set(status="idle")
