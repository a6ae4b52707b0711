"""Telling systemd that a service is ready, what it does, and that it is alive: sd_notify(3).

The protocol is one datagram per message to the socket that the environment names; there is no
answer. Without such a socket nothing happens, so that the same program runs anywhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]

#: of the watchdog's time between two signs of life, as sd_watchdog_enabled(3) advises
_SHARE = 0.5
#: systemd keeps the status as one line; more is of no use to a person
_STATUS_CHARACTERS = 200
#: what is said once waits this long for room in systemd's queue
_PATIENCE_S = 1.0


class Notifier:
    """One service's messages to systemd.

    Parameters
    ----------
    environment : mapping, optional
        `NOTIFY_SOCKET` (a path, or ``@name`` for an abstract one), `WATCHDOG_USEC` and
        `WATCHDOG_PID`; those of the process by default.

    Attributes
    ----------
    watchdog_s : float or None
        Seconds between two signs of life, or None when none are asked for.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        name = given.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with "@" and starts with a zero byte.
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if name else None
        self.watchdog_s = _watchdog_s(given) if name else None
        self._fed_s: float | None = None
        self._status = ""

    def ready(self) -> None:
        """Say that the start is over."""
        self._send("READY=1", patience_s=_PATIENCE_S)

    def status(self, text: str) -> None:
        """Show a line to people (``systemctl status``); the same line again is not sent."""
        line = " ".join(text.split())[:_STATUS_CHARACTERS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def stopping(self) -> None:
        """Say that the service is ending."""
        self._send("STOPPING=1", patience_s=_PATIENCE_S)

    def feed(self) -> None:
        """Say that the service is alive, if that is due; cheap to call often."""
        if self.watchdog_s is None:
            return
        now_s = time.monotonic()
        if self._fed_s is None or now_s - self._fed_s >= self.watchdog_s:
            self._fed_s = now_s
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Let the socket go."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str, *, patience_s: float = 0.0) -> None:
        if self._socket is None:
            return
        # A service must not end because nobody listens; a full queue passes, the next one counts.
        self._socket.settimeout(patience_s)
        with contextlib.suppress(OSError):
            self._socket.sendto(message.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    try:
        interval_us = int(environment.get("WATCHDOG_USEC", "0"))
        meant = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    # Meant for a parent that started this process: not ours to answer.
    if interval_us <= 0 or meant != os.getpid():
        return None
    return _SHARE * interval_us / 1e6
