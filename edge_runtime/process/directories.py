"""Directories whose names are on the disk once they were made."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["make_directory", "sync_directory"]


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Make a directory where there is none, and those above it, each for good.

    A file that was synced is gone after a power cut all the same where the name of a directory
    above it is not on the disk yet.

    Parameters
    ----------
    path : Path
        The directory.
    mode : int
        Its permissions, if it is made; less the umask.
    """
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in made:
        sync_directory(each.parent)


def sync_directory(directory: Path) -> None:
    """Make names that were created, replaced or removed in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
