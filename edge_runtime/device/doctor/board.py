"""Whether the board has what a device needs: disk, memory, a temperature it stands, its rows."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.device.clock import MINIMUM_TIME_FILE, read_minimum, utc
from edge_runtime.device.doctor.finding import Finding
from edge_runtime.device.readings import Readings

if TYPE_CHECKING:
    # At run time it would bring the kernel, and one that fails is a finding.
    from edge_runtime.device.config import DeviceConfig

__all__ = ["CHECKS"]


def _state_dir(config: DeviceConfig) -> Iterator[Finding]:
    """Whether this user may write to the state directory, or make it."""
    place = config.state_dir
    existing = next(part for part in (place, *place.absolute().parents) if part.exists())
    found = f"{place}, as user {_user()}" + ("" if existing == place else ", not made yet")
    problem = ""
    if not existing.is_dir():
        problem = f"{existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        problem = f"{existing} cannot be written to"
    else:
        # One that another user's doctor or agent has left stops this user's agent.
        locked = [f for f in _own_files(place) if not os.access(f, os.W_OK, effective_ids=True)]
        if locked:
            problem = f"{locked[0]} cannot be written to"
    yield Finding(
        check="state directory",
        found=found,
        problem=problem,
        fix="give it to the service's user, or name another device.state_dir" if problem else "",
    )


def _own_files(state_dir: Path) -> list[Path]:
    return sorted(path for path in state_dir.glob("*") if path.is_file())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        return str(os.geteuid())


def _disk(config: DeviceConfig) -> Iterator[Finding]:
    yield _free(
        "disk",
        Readings(state_dir=config.state_dir).free_disk_bytes(),
        least=config.limits.free_disk_bytes,
        fix="free some space, or lower limits.free_disk_bytes",
    )


def _memory(config: DeviceConfig) -> Iterator[Finding]:
    yield _free(
        "memory",
        Readings(state_dir=config.state_dir).free_memory_bytes(),
        least=config.limits.free_memory_bytes,
        fix="end other programs, raise limits.memory_bytes, or lower limits.free_memory_bytes",
    )


def _free(check: str, free: int | None, *, least: int, fix: str) -> Finding:
    if free is None:
        return Finding(check=check, found="not known")
    # To 10 MB: the store, which takes from both, grows with the number of real rows.
    found = f"{round(free / 1e7) * 10} MB free"
    if free < least:
        problem = f"below {least / 1e6:.0f} MB the agent pauses"
        return Finding(check=check, found=found, problem=problem, fix=fix)
    return Finding(check=check, found=found)


def _temperature(config: DeviceConfig) -> Iterator[Finding]:
    celsius = Readings(state_dir=config.state_dir).temperature_c()
    slow = config.limits.temperature_slow_c
    if celsius is None:
        yield Finding(check="temperature", found="no sensor")
    elif 0.0 < slow <= celsius:
        yield Finding(
            check="temperature",
            found=f"{celsius:.0f} C",
            problem=f"from {slow:g} C on the agent works slowly",
            fix="cool the board: a heat sink, a fan, a cooler place",
        )
    else:
        yield Finding(check="temperature", found=f"{celsius:.0f} C")


def _minimum_time(config: DeviceConfig) -> Iterator[Finding]:
    minimum_s = read_minimum(config.state_dir / MINIMUM_TIME_FILE)
    behind = time.time() < minimum_s
    yield Finding(
        check="minimum time",
        found=f"{utc(minimum_s)} was reached before",
        problem="the clock is behind it: certificates may be refused" if behind else "",
        fix="let it synchronise: timedatectl set-ntp true" if behind else "",
    )


def _source(config: DeviceConfig) -> Iterator[Finding]:
    path = config.source.path
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        yield Finding(
            check="source",
            found=str(path),
            problem=f"cannot be read as user {_user()} ({error.strerror})",
            fix="correct source.path, or let the service's user read the file",
        )
    else:
        yield Finding(check="source", found=f"{path} can be read")


CHECKS: tuple[Callable[[DeviceConfig], Iterator[Finding]], ...] = (
    _state_dir,
    _disk,
    _memory,
    _temperature,
    _minimum_time,
    _source,
)
