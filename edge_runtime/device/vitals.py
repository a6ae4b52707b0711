"""What the agent looks at between messages: the board, the clock, and whether its work goes on."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from edge_runtime.device.clock import MINIMUM_TIME_FILE, MinimumTime, read_minimum, synchronised
from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.governor import STAYS_HERE, Governor, Level
from edge_runtime.device.readings import Readings
from edge_runtime.device.report import Reporter
from edge_runtime.process import Notifier

__all__ = ["Vitals"]

_LOG = logging.getLogger(__name__)


class _Work(Protocol):
    """The part of the worker that is looked at."""

    @property
    def silent_s(self) -> float: ...

    def throttle(self, level: Level, *, shown: Level) -> None: ...


class Vitals:
    """Looks, shows what it has found, and tells systemd that the agent is alive.

    The watchdog is fed by the agent's own thread, so a thread that hangs is noticed. While the
    worker has shown no sign of life for `limits.stall_s` it is not fed either: a worker that
    waits for ever for a dead disk does no work, however well the agent answers.

    Parameters
    ----------
    config : DeviceConfig
    reporter : Reporter
    work : Worker
    readings : Readings
    """

    def __init__(
        self, *, config: DeviceConfig, reporter: Reporter, work: _Work, readings: Readings
    ) -> None:
        self._limits = config.limits
        self._reporter = reporter
        self._work = work
        self._governor = Governor(
            readings=readings,
            limits=config.limits,
            shows_shortage=config.privacy.shows_shortage,
        )
        self._minimum = MinimumTime(config.state_dir / MINIMUM_TIME_FILE)
        # The authority's clock when this device was enrolled, over a connection that was checked.
        self._minimum.raise_to(read_minimum(config.state_dir / "identity" / MINIMUM_TIME_FILE))
        self._notifier = Notifier()
        self._looked_s: float | None = None
        self._stalled = False
        self._hidden = False

    def ready(self) -> None:
        """Say that the agent has started; whether a broker answers is another matter."""
        self.look()
        self._notifier.ready()

    def now(self) -> float:
        """Return the time that nothing may be older than, in Unix seconds."""
        return self._minimum.now()

    def wait_s(self) -> float:
        """Seconds the agent may sleep before the next look."""
        return min(self._limits.look_s, self._notifier.watchdog_s or self._limits.look_s)

    def look(self, *, unsent: str = "") -> None:
        """Look at what is due; cheap to call at every turn.

        Parameters
        ----------
        unsent : str
            Why nothing can be sent at present; shown to who is at the board.
        """
        self._feed()
        self._show(unsent)
        now_s = time.monotonic()
        if self._looked_s is not None and now_s - self._looked_s < self._limits.look_s:
            return
        self._looked_s = now_s
        if self._governor.look():
            self._say_level()
            self._reporter.set(throttled=self._governor.shown)
            self._work.throttle(self._governor.level, shown=self._governor.shown_level)
        self._look_at_clock(write=False)

    def stopping(self) -> None:
        """Say that the agent is ending, and keep the time for the next start."""
        self._notifier.stopping()
        self._look_at_clock(write=True)

    def close(self) -> None:
        """Let the socket to systemd go."""
        self._notifier.close()

    def _say_level(self) -> None:
        reason, shown = self._governor.reason, self._governor.shown
        # Also the return: that there was something to return from is as private as what it was.
        hidden = reason != shown or self._hidden
        self._hidden = reason != shown
        _LOG.warning(
            "%s%s",
            reason or "the board is well again: full speed",
            f" {STAYS_HERE}" if hidden else "",
        )

    def _look_at_clock(self, *, write: bool) -> None:
        held = synchronised()
        # Before that, the time may be anything; a wrong minimum would stand for ever. What passed
        # since the last time known is kept all the same.
        self._minimum.raise_to(time.time() if held else 0.0, write=write)
        words = {True: "synchronised", False: "unsynchronised", None: ""}
        self._reporter.set(clock=words[held])

    def _feed(self) -> None:
        silent_s = self._work.silent_s
        stalled = silent_s > self._limits.stall_s
        if stalled and not self._stalled:
            _LOG.error(
                "the work has shown no sign of life for %.0f s; systemd's watchdog, if it is on, "
                "restarts the service",
                silent_s,
            )
        self._stalled = stalled
        if not stalled:
            self._notifier.feed()

    def _show(self, unsent: str) -> None:
        state = self._reporter.state
        plan = f" round {state.round}" if state.plan_id else ""
        reason = f": {state.reason}" if state.reason else ""
        # Of this board, for who is at it: `diag` does not pass it on.
        throttled = f" ({self._governor.reason})" if self._governor.reason else ""
        apart = f" - {unsent}" if unsent else ""
        self._notifier.status(f"{state.status}{plan}{throttled}{reason}{apart}")
