"""One archive for whoever helps from afar: what is set, what is installed, what has happened.

Never a real row, an exact count of them, a password or a key: what is taken is named here piece
by piece, and nothing is copied whole but the log, which holds none of them by its own rules. Nor,
unless `privacy.publish_shortage` allows it, whether disk, memory or the store run short: they are
filled by real rows.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import json
import os
import platform
import re
import sqlite3
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime import __version__
from edge_runtime.device.clock import (
    MINIMUM_TIME_FILE,
    MinimumTime,
    read_minimum,
    synchronised,
    utc,
)
from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.doctor import Finding, examine
from edge_runtime.device.governor import STAYS_HERE
from edge_runtime.device.readings import Readings
from edge_runtime.device.retained import retained_state
from edge_runtime.errors import ConfigError
from edge_runtime.privacy import ORDERS, to_epsilon

__all__ = ["write_diag"]

_JOURNAL_LINES = 2000
_COMMAND_TIMEOUT_S = 30.0
#: how it runs and within which limits. Not how much memory it uses: that grows with the number of
#: real rows.
_UNIT_PROPERTIES = (
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "ExecMainStatus",
    "WatchdogUSec",
    "MemoryHigh",
    "MemoryMax",
    "CPUQuotaPerSecUSec",
)
#: the agent's own word, which says what holds it back
_STATUS_TEXT = "StatusText"
#: findings of the doctor about what real rows fill
_FILLED_BY_ROWS = ("disk", "memory")
_LEFT_OUT = "left out: real rows fill it; see privacy.publish_shortage"
_STORE_FILE = "device.sqlite"
#: values under such names are left out, whatever they are; paths say where, not what
_SECRET = re.compile(r"passw|secret|token", re.IGNORECASE)


def write_diag(config: DeviceConfig, out: Path, *, unit: str = "edge-runtime-device") -> list[str]:
    """Write the archive; return the names of the files in it.

    Parameters
    ----------
    config : DeviceConfig
    out : Path
        A .tar.gz, for its owner alone (mode 0600); replaced as a whole.
    unit : str
        Whose journal.

    Raises
    ------
    ConfigError
        When the file cannot be written.
    """
    parts: dict[str, Callable[[], str]] = {
        "config.json": lambda: _json(_settings(config)),
        "doctor.json": lambda: _json(_findings(config)),
        "journal.txt": lambda: _journal(unit, config),
        "ledger.json": lambda: _json(_ledger(config)),
        "machine.json": lambda: _json(_machine(config)),
        "packages.txt": _packages,
        "state.json": lambda: retained_state(config),
        "store.json": lambda: _json(_store(config)),
        "unit.txt": lambda: _unit(unit, config),
    }
    now_s = int(MinimumTime(config.state_dir / MINIMUM_TIME_FILE).now())
    folder = f"edge-runtime-{config.id}"
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=now_s) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name, make in sorted(parts.items()):
            data = make().encode()
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime, member.mode = len(data), now_s, 0o600
            archive.addfile(member, io.BytesIO(data))
    _write(out, packed.getvalue())
    return sorted(parts)


def _write(out: Path, data: bytes) -> None:
    fresh = out.with_name(f"{out.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        # For its owner from the first moment, and no file that somebody else has prepared.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(out)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror}); name another --out"
        ) from error


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _settings(config: DeviceConfig) -> Any:
    plain = msgspec.to_builtins(config, enc_hook=str)
    return _without_secrets(plain)


def _without_secrets(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: "left out" if _SECRET.search(name) and inner else _without_secrets(inner)
        for name, inner in value.items()
    }


def _findings(config: DeviceConfig) -> list[dict[str, Any]]:
    found = examine(config)
    if not config.privacy.shows_shortage:
        found = [
            Finding(check=one.check, found=_LEFT_OUT) if one.check in _FILLED_BY_ROWS else one
            for one in found
        ]
    return [asdict(finding) for finding in found]


def _packages() -> str:
    found = {
        f"{package.metadata['Name']}=={package.version}\n"
        for package in importlib.metadata.distributions()
    }
    return "".join(sorted(found, key=str.lower))


def _machine(config: DeviceConfig) -> dict[str, Any]:
    readings = Readings(state_dir=config.state_dir)
    clock = MinimumTime(config.state_dir / MINIMUM_TIME_FILE)
    return {
        "edge_runtime": __version__,
        "python": platform.python_version(),
        "kernel": " ".join(platform.uname()[i] for i in (0, 2, 3, 4)),
        "system": _system_name(),
        "processors": os.cpu_count(),
        "processor": _processor(),
        "total_memory_mb": _tens_of_mb(readings.total_memory_bytes()),
        "free_memory_mb": _free(config, readings.free_memory_bytes),
        "free_disk_mb": _free(config, readings.free_disk_bytes),
        "temperature_c": readings.temperature_c(),
        "clock_synchronised": synchronised(),
        "time": utc(clock.now()),
        "minimum_time": utc(read_minimum(config.state_dir / MINIMUM_TIME_FILE)),
    }


def _free(config: DeviceConfig, read: Callable[[], int | None]) -> int | str | None:
    return _tens_of_mb(read()) if config.privacy.shows_shortage else _LEFT_OUT


def _tens_of_mb(size_bytes: int | None) -> int | None:
    # The store takes from both, and it grows with the number of real rows.
    return None if size_bytes is None else round(size_bytes / 1e7) * 10


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _processor() -> list[str]:
    """Return the lines of /proc/cpuinfo that tell processors apart, each once."""
    wanted = ("model name", "CPU implementer", "CPU part", "Features", "flags", "Hardware", "Model")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return sorted({" ".join(line.split()) for line in lines if line.startswith(wanted)})


def _ledger(config: DeviceConfig) -> Any:
    """Return what was paid for. Not the details: some of them name parts of the store."""
    rows = _query(config, "SELECT what, rdp, released FROM ledger_entries ORDER BY number")
    if isinstance(rows, str):
        return rows
    spent: Any = np.zeros(len(ORDERS))
    entries = []
    for what, rdp, released in rows:
        spent = spent + (np.inf if rdp is None else np.frombuffer(rdp, dtype="<f8"))
        epsilon = to_epsilon(spent, config.privacy.delta)
        entries.append(
            {
                "what": what,
                "epsilon_after": epsilon if np.isfinite(epsilon) else "WITHOUT PRIVACY",
                "released": bool(released),
            }
        )
    return {"delta": config.privacy.delta, "entries": entries}


def _store(config: DeviceConfig) -> Any:
    """Return messages by kind and state, and plans; of the local rows not even their size."""
    messages = _query(config, "SELECT kind, status FROM outbox")
    plans = _query(config, "SELECT id, status, reason FROM plans ORDER BY received")
    if isinstance(messages, str) or isinstance(plans, str):
        return messages
    return {
        "outbox": Counter(f"{kind}, {status}" for kind, status in messages),
        "plans": [dict(zip(("id", "status", "reason"), plan, strict=True)) for plan in plans],
    }


def _query(config: DeviceConfig, statement: str) -> list[tuple[Any, ...]] | str:
    path = config.state_dir / _STORE_FILE
    try:
        # Read only: not even the tables of a store that is missing are made.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(statement).fetchall()
    except sqlite3.Error as error:
        return f"not read: {error}"


def _journal(unit: str, config: DeviceConfig) -> str:
    lines = ["--lines", str(_JOURNAL_LINES), "--output", "short-iso", "--no-pager"]
    text = _output(["journalctl", "--unit", unit, *lines])
    if config.privacy.shows_shortage:
        return text
    return "".join(line for line in text.splitlines(keepends=True) if STAYS_HERE not in line)


def _unit(unit: str, config: DeviceConfig) -> str:
    names = [*_UNIT_PROPERTIES, *([_STATUS_TEXT] if config.privacy.shows_shortage else [])]
    return _output(["systemctl", "show", unit, "--property", ",".join(names)])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs; the unit is one argument
            command, capture_output=True, text=True, check=False, timeout=_COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not read: {error}\n"
    return done.stdout + done.stderr
