"""Processor time and memory of other processes, from /proc."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

__all__ = ["Meter", "cpu_s", "only_child", "rss_mb"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_SAMPLE_S = 0.5


def cpu_s(pid: int) -> float:
    """Return user and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB


def only_child(pid: int) -> int:
    """Wait until a process has started one of its own, and return that one."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    while not (children := path.read_text().split()):
        time.sleep(_SAMPLE_S / 10)
    return int(children[0])


class Meter:
    """Follows one process that may be replaced by another of the same role."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began_s = time.monotonic()
        self._before_s, self._cpu_s = cpu_s(pid), 0.0
        #: seconds since the meter began, and MiB
        self.memory: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        """Processor seconds since the meter began, of all processes it followed."""
        return self._cpu_s

    def follow(self, pid: int) -> None:
        """Go on with the process that has taken the place of one that ended."""
        self._before_s = -self._cpu_s
        self._pid = pid

    def close(self) -> None:
        """Take the last sample."""
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        pid, before_s = self._pid, self._before_s
        try:
            used_s, memory = cpu_s(pid), rss_mb(pid)
        except (OSError, IndexError):  # it has ended; its successor is followed soon
            return
        if pid == self._pid:
            self._cpu_s = used_s - before_s
            self.memory.append((time.monotonic() - self._began_s, memory))
