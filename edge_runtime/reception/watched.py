"""Files that others may replace while they are in use: looked at now and then, by date and size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["WatchedFiles"]

#: between two looks
_LOOK_S = 2.0


class WatchedFiles:
    """Says when one of some files has become another.

    Parameters
    ----------
    paths : sequence of Path
        They need not exist.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stamps, self._looked_s = self._read(), time.monotonic()

    def changed(self) -> bool:
        """Return whether any is another than at the last look; cheap to call at every turn."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s, before = now_s, self._stamps
        self._stamps = self._read()
        return self._stamps != before

    def _read(self) -> list[tuple[int, ...]]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what is another for another file; of one that is not there, nothing."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
