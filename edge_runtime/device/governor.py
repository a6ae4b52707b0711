"""Slows the agent down before the kernel kills it, the board switches off or the disk is full.

Three levels. *ok*: work as fast as it goes. *slow*: work a quarter of the time. *paused*: training
is put aside with a checkpoint and no rows are taken in; the outbox and acknowledgements go on. A
level is left later than it was entered, and not after a single good reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

from edge_runtime.device.config import LimitsConfig
from edge_runtime.device.readings import Readings

__all__ = ["STAYS_HERE", "Governor", "Level"]

#: marks a line of the log that depends on the number of real rows; `diag` leaves such lines out
STAYS_HERE = "[stays on the device]"

#: good readings in a row before a level is left
_GOOD_LOOKS = 3
#: a board that has cooled by less would be back at the limit within seconds (degrees Celsius)
_COOLER_C = 5.0
#: of ten seconds in which nothing ran for want of memory: pages are then read again and again
_PRESSURE_PERCENT = 10.0


class Level(IntEnum):
    """How much the agent may do."""

    OK = 0
    SLOW = 1
    PAUSED = 2


class _Watch:
    """One reading and its limits, in numbers of which a larger one is worse.

    Parameters
    ----------
    read : callable () -> float or None
    slow, stop : float or None
        From here on slow, or paused; None: never.
    margin : float
        A level is left only that far below its limit.
    words : callable (float, Level) -> str
        For people. Not a figure that the number of real rows has a part in.
    private : bool
        Whether the number of real rows has a part in the reading.
    """

    def __init__(
        self,
        *,
        read: Callable[[], float | None],
        slow: float | None,
        stop: float | None,
        margin: float,
        words: Callable[[float, Level], str],
        private: bool = True,
    ) -> None:
        self._read, self._words = read, words
        self.private = private
        self._slow, self._stop, self._margin = slow, stop, margin
        self._good = 0
        self.level = Level.OK
        self.text = ""

    def look(self) -> None:
        value = self._read()
        found = Level.OK if value is None else self._judge(value)
        self._good = 0 if found >= self.level else self._good + 1
        if found < self.level and self._good < _GOOD_LOOKS:
            return
        if found != self.level:
            self._good = 0
            self.level = found
            self.text = "" if value is None else self._words(value, found)

    def _judge(self, value: float) -> Level:
        for level, limit in ((Level.PAUSED, self._stop), (Level.SLOW, self._slow)):
            held = self._margin if self.level >= level else 0.0
            if limit is not None and value >= limit - held:
                return level
        return Level.OK


class Governor:
    """Judges the readings.

    Parameters
    ----------
    readings : Readings
    limits : LimitsConfig
        A limit of 0 switches its watch off.
    shows_shortage : bool
        As `PrivacyConfig.shows_shortage`: whether disk and memory have a part in what is shown.

    Attributes
    ----------
    level, reason : Level, str
        Of the device: how it works. Such as "slow: temperature 82 C"; empty while everything is
        well. Free bytes are not named, only their limit: the store grows with the real rows.
    shown_level, shown : Level, str
        The same as others may know it. Without `shows_shortage` it follows from the temperature
        alone, whatever disk and memory read.
    """

    def __init__(
        self, *, readings: Readings, limits: LimitsConfig, shows_shortage: bool = False
    ) -> None:
        self.level = self.shown_level = Level.OK
        self.reason = self.shown = ""
        self._shows_shortage = shows_shortage
        self._watches = [
            _temperature(readings, limits),
            _free(readings.free_disk_bytes, limits.free_disk_bytes, "on the disk"),
            _free(readings.free_memory_bytes, limits.free_memory_bytes, "of memory"),
            _reclaim(readings, limits),
            _pressure(readings, limits),
        ]

    def look(self) -> bool:
        """Read everything again; return whether the level or its reasons are others now.

        A reading that moves while its level stays is no change: it would fill the log.
        """
        before = [watch.level for watch in self._watches]
        for watch in self._watches:
            watch.look()
        if [watch.level for watch in self._watches] == before:
            return False
        self.level, self.reason = _summed_up(self._watches)
        self.shown_level, self.shown = _summed_up(
            [watch for watch in self._watches if self._shows_shortage or not watch.private]
        )
        return True


def _summed_up(watches: Sequence[_Watch]) -> tuple[Level, str]:
    level = max(watch.level for watch in watches)
    texts = ", ".join(watch.text for watch in watches if watch.level)
    return level, f"{level.name.lower()}: {texts}" if texts else ""


def _temperature(readings: Readings, limits: LimitsConfig) -> _Watch:
    return _Watch(
        read=readings.temperature_c,
        slow=limits.temperature_slow_c or None,
        stop=limits.temperature_stop_c or None,
        margin=_COOLER_C,
        words=lambda value, _: f"temperature {value:.0f} C",
        private=False,
    )


def _free(read: Callable[[], int | None], least_bytes: int, where: str) -> _Watch:
    """Slow below twice the least, paused below it."""

    def used() -> float | None:
        free = read()
        return None if free is None else -float(free)

    def words(_value: float, level: Level) -> str:
        shown = least_bytes * (1 if level is Level.PAUSED else 2)
        return f"less than {shown / 1e6:.0f} MB free {where}"

    return _Watch(
        read=used,
        slow=-2.0 * least_bytes if least_bytes else None,
        # 1 byte above: the least itself is still enough.
        stop=1.0 - least_bytes if least_bytes else None,
        margin=0.5 * least_bytes,
        words=words,
    )


def _reclaim(readings: Readings, limits: LimitsConfig) -> _Watch:
    def used() -> float | None:
        room = readings.memory_to_reclaim_bytes()
        return None if room is None else -float(room)

    return _Watch(
        read=used,
        slow=-0.5 * limits.free_memory_bytes if limits.free_memory_bytes else None,
        stop=None,
        margin=0.5 * limits.free_memory_bytes,
        words=lambda *_: "near the service's memory limit",
    )


def _pressure(readings: Readings, limits: LimitsConfig) -> _Watch:
    return _Watch(
        read=readings.memory_pressure_percent,
        slow=_PRESSURE_PERCENT if limits.free_memory_bytes else None,
        stop=None,
        margin=0.5 * _PRESSURE_PERCENT,
        words=lambda *_: "processes wait for memory",
    )
