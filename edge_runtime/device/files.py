"""Small files that are either whole and on the disk, or not there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_directory", "write_durably"]


def write_durably(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file atomically and sync it and its name to the disk.

    Parameters
    ----------
    path : Path
        Its directory must exist. An existing file is replaced.
    data : bytes or str
        Its content; text as UTF-8.
    mode : int
        Permissions, from the moment it exists; never wider, whatever the umask.

    Notes
    -----
    Root gives the file to the owner of its directory: what root sets up, a service with a user
    of its own then reads.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names that were created, replaced or removed in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
