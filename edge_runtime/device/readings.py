"""What the board says about itself: free disk, free memory, temperature.

Plain files of the kernel and one system call. What a board does not have is None; no reading
raises, as a sensor that fails must not end the agent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Readings"]

#: beyond this a sensor is not connected or broken (degrees Celsius)
_PLAUSIBLE_C = (-40.0, 150.0)


class Readings:
    """Reads the board's state anew at every call.

    Parameters
    ----------
    state_dir : Path
        On the file system whose free space counts; its nearest existing parent while it is
        missing.
    thermal_dir, proc_dir, cgroup_dir : Path
        Where the kernel shows thermal zones, processes and control groups (version 2).
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        thermal_dir: Path = Path("/sys/class/thermal"),
        proc_dir: Path = Path("/proc"),
        cgroup_dir: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self._state_dir = state_dir
        self._thermal_dir = thermal_dir
        self._proc_dir = proc_dir
        self._cgroup_dir = cgroup_dir

    def free_disk_bytes(self) -> int | None:
        """Bytes that an ordinary user may still write beside the store."""
        for place in (self._state_dir, *self._state_dir.absolute().parents):
            with contextlib.suppress(OSError):
                found = os.statvfs(place)
                return found.f_bavail * found.f_frsize
        return None

    def temperature_c(self) -> float | None:
        """Degrees Celsius of the hottest thermal zone."""
        found = []
        for zone in self._thermal_dir.glob("thermal_zone*/temp"):
            # A zone that is switched off answers with an error.
            with contextlib.suppress(OSError, ValueError):
                celsius = int(zone.read_text()) / 1000.0
                if _PLAUSIBLE_C[0] < celsius < _PLAUSIBLE_C[1]:
                    found.append(celsius)
        return max(found, default=None)

    def free_memory_bytes(self) -> int | None:
        """Bytes that can be taken before the kernel kills: of the board, and of each cgroup."""
        rooms = [_room(place, "memory.max") for place in self._cgroups()]
        rooms.append(self._meminfo("MemAvailable"))
        return min((room for room in rooms if room is not None), default=None)

    def memory_to_reclaim_bytes(self) -> int | None:
        """Bytes before the kernel slows this process down (memory.high); None where not set."""
        rooms = [_room(place, "memory.high") for place in self._cgroups()]
        return min((room for room in rooms if room is not None), default=None)

    def total_memory_bytes(self) -> int | None:
        """Bytes of memory that the kernel has."""
        return self._meminfo("MemTotal")

    def memory_pressure_percent(self) -> float | None:
        """Share of the last ten seconds in which everything waited for memory."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = (self._proc_dir / "pressure/memory").read_text()
            return float(text.split("full avg10=")[1].split()[0])
        return None

    def _meminfo(self, name: str) -> int | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = (self._proc_dir / "meminfo").read_text()
            return int(text.split(f"{name}:")[1].split()[0]) << 10
        return None

    def _cgroups(self) -> Iterator[Path]:
        """Yield the process's control group and those around it: each may set a limit."""
        try:
            lines = (self._proc_dir / "self/cgroup").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("0::/"):
                inside = Path(line.removeprefix("0::/"))
                yield from (self._cgroup_dir / part for part in (inside, *inside.parents))


def _room(cgroup: Path, limit: str) -> int | None:
    """Bytes up to a limit of a control group; file pages do not count, as they can be taken back.

    They fill the group up to its limit in time, whatever the processes need.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        most = int((cgroup / limit).read_text())  # "max" where there is none
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(stat["inactive_file"]) + int(stat["active_file"]))
    return None
