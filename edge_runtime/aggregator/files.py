"""Writing a file so that it is either whole and on the disk, or not there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_durably"]


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically and sync it, its name and new directories to the disk.

    Parameters
    ----------
    path : Path
        The file; missing directories are created. An existing file is replaced.
    data : bytes
        Its content.
    """
    created = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    # Without this a power cut may keep the file and lose its name, or a directory above it.
    for directory in (path.parent, *(parent.parent for parent in created)):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
