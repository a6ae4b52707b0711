"""The time, on boards that have no battery for their clock.

Such a board starts in the past, until the network tells it the time. What must not be fooled by
that (certificates) uses `MinimumTime.now`: the clock, or the latest time known for certain if the
clock is behind it. The agent itself measures all durations with a clock that no setting moves.

`python -m edge_runtime.device.clock --set-if-behind FILE`, run by root before the network is
there, steps the system's clock up to that time, so that TLS works from the first second.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge_runtime.process import complain
from edge_runtime.process.directories import sync_directory

__all__ = [
    "MINIMUM_TIME_FILE",
    "RELEASED_S",
    "MinimumTime",
    "read_minimum",
    "set_if_behind",
    "synchronised",
    "utc",
]

_LOG = logging.getLogger(__name__)

#: in the state directory; also in its identity, where enrolment leaves the authority's time
MINIMUM_TIME_FILE = "minimum-time"
#: no release of this package is older (2026-01-01 UTC, Unix seconds)
RELEASED_S = 1_767_225_600
#: a later time is a mistake or an attack: it would hold every certificate expired (30 years on)
_LATEST_S = RELEASED_S + 30 * 365 * 86_400
#: flash wears: the file is written this often at most while the agent runs (seconds)
_EVERY_S = 3600
#: from timex.h: what adjtimex returns for a clock that nothing has set right
_TIME_ERROR = 5
#: more than any architecture's struct timex (208 bytes on 64-bit ones)
_TIMEX_BYTES = 512


def synchronised(timesyncd: Path = Path("/run/systemd/timesync")) -> bool | None:
    """Whether the system's clock is held to a reference (NTP); None where nobody can say.

    Parameters
    ----------
    timesyncd : Path
        The directory of systemd-timesyncd, which leaves a file there once it has set the clock.
        Where another program does it the kernel is asked: chrony and ntpd tell it. A unit with
        ``ProtectClock=yes`` may not ask.
    """
    if timesyncd.is_dir():
        return (timesyncd / "synchronized").exists()
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    # All zeros: nothing is to be changed, which anyone may ask for.
    answer = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if answer < 0 else answer != _TIME_ERROR


def utc(unix_s: float) -> str:
    """Write a moment for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def read_minimum(path: Path) -> int:
    """Return the time in a file, in Unix seconds; the release's own where it says nothing usable.

    The file is the agent's and root reads it before the network is there: anything but a plausible
    number is ignored. That includes a link, which could lead to a device that does something when
    it is opened, and a pipe, which would hold up the start of the board.
    """
    with contextlib.suppress(OSError, ValueError):
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = int(file.read(32))
        if RELEASED_S < found < _LATEST_S:
            return found
    return RELEASED_S


class MinimumTime:
    """The latest time known for certain, kept in a file; it never goes back.

    Parameters
    ----------
    path : Path
        The file, in a directory that exists.

    Attributes
    ----------
    unix_s : int
        As it was learnt last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written_s = read_minimum(path)
        self.unix_s = self._written_s
        self._learnt_s = time.monotonic()

    @property
    def certain(self) -> float:
        """The time that has come for certain, in Unix seconds: as learnt, and what passed since."""
        return self.unix_s + time.monotonic() - self._learnt_s

    def now(self) -> float:
        """Return the time to judge certificates and signatures by, in Unix seconds."""
        return max(time.time(), self.certain)

    def raise_to(self, unix_s: float, *, write: bool = False) -> None:
        """Learn a time from somebody who can be trusted: a synchronised clock, a signed message.

        Parameters
        ----------
        unix_s : float
            An earlier one than is known, or one that cannot be, changes nothing.
        write : bool
            Write the file now, and not when an hour has passed, as at the end.
        """
        if self.certain < unix_s < _LATEST_S:
            self.unix_s, self._learnt_s = int(unix_s), time.monotonic()
        if int(self.certain) > self._written_s + (0 if write else _EVERY_S):
            self._write()

    def _write(self) -> None:
        certain_s = int(self.certain)
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            with fresh.open("wb") as file:
                file.write(f"{certain_s}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            # The older minimum still stands; an hour later it is tried again.
            _LOG.warning("%s cannot be written (%s)", self._path, error.strerror)
        self._written_s = certain_s


def set_if_behind(
    *paths: Path,
    set_clock: Callable[[float], None] = lambda unix_s: time.clock_settime(
        time.CLOCK_REALTIME, unix_s
    ),
) -> str:
    """Step the system's clock up to the latest stored time; return what was done, for people.

    Raises
    ------
    OSError
        When the clock may not be set.
    """
    now_s, minimum_s = time.time(), max(map(read_minimum, paths))
    if now_s >= minimum_s:
        return f"the clock, {utc(now_s)}, is not behind the last time known, {utc(minimum_s)}"
    set_clock(float(minimum_s))
    return f"the clock was set from {utc(now_s)} to the last time known, {utc(minimum_s)}"


def main(arguments: list[str] | None = None) -> int:
    """Run `set_if_behind`; return the exit code."""
    import argparse  # noqa: PLC0415 - the agent imports this module and holds .6 MB less

    parser = argparse.ArgumentParser(
        prog="python -m edge_runtime.device.clock",
        description="Step the system's clock up to the last time known, if it is behind.",
        epilog="exit codes: 0 the clock is right or was set, 1 it may not be set, 2 usage",
    )
    parser.add_argument(
        "--set-if-behind",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="minimum-time in the device's state directory, and in its identity there",
    )
    options = parser.parse_args(arguments)
    try:
        print(set_if_behind(*options.set_if_behind))
    except OSError as error:
        complain(f"the clock is behind and cannot be set ({error.strerror}); run this as root")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
