"""Files that are either whole and on the disk or not there, and a directory of one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from edge_runtime.errors import AggregatorError
from edge_runtime.process.directories import make_directory, sync_directory

__all__ = ["hold_directory", "sync_file", "write_durably"]


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically and sync it, its name and new directories to the disk.

    Parameters
    ----------
    path : Path
        The file; missing directories are created. An existing file is replaced.
    data : bytes
        Its content.
    """
    make_directory(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # on a read-only disk it was never there
            temporary.unlink(missing_ok=True)
        raise
    # Without this a power cut may keep the file and lose its name.
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Have a file, or a directory's names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold_directory(data_dir: Path) -> IO[bytes]:
    """Hold a data directory until the file returned is closed.

    Two aggregators on one pool would each miss the other's rows.

    Raises
    ------
    AggregatorError
        If another process holds it, or it cannot be written to.
    """
    try:
        make_directory(data_dir.absolute())
        file = (data_dir / "lock").open("ab")
    except OSError as error:
        raise AggregatorError(
            f"{data_dir} cannot be written to ({error.strerror}); name another directory as "
            "data.dir, or give it to the aggregator's user"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AggregatorError(
            f"{data_dir} is in use by another aggregator; stop it first, or use another directory"
        ) from error
    return file
