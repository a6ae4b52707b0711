"""The demo's output directory: clean at every start, and never somebody else's files."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from edge_runtime.errors import ConfigError

__all__ = ["WorkDir"]

_MARKER = ".edge-runtime-demo"


class WorkDir:
    """Owns a directory for one run.

    Parameters
    ----------
    path : Path
        Created when missing. A directory with a marker of an earlier demo is emptied; one that
        holds anything else is refused.
    facts : dict
        Written into the marker: what the run was asked for.

    Raises
    ------
    ConfigError
        The directory holds other files, is a file, or another demo is using it.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path.absolute()
        self._lock = self._claim()
        for entry in self.path.iterdir():
            if entry.name == _MARKER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._lock.truncate(0)
        self._lock.write(json.dumps(facts, indent=1))
        self._lock.flush()

    def __enter__(self) -> WorkDir:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _claim(self) -> IO[str]:
        marker = self.path / _MARKER
        if self.path.exists():
            if not self.path.is_dir():
                raise ConfigError(f"--out {self.path} is a file; name a directory")
            if not marker.is_file() and any(self.path.iterdir()):
                raise ConfigError(
                    f"--out {self.path} is not empty and not the output of an earlier demo; "
                    "name another directory, or empty it yourself"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = marker.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out {self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ConfigError(
                f"--out {self.path} is in use by another demo; wait for it or name another"
            ) from error
        return lock
