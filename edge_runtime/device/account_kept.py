"""A device whose account of spent privacy has gone must not begin another one by itself.

A missing or empty file is what a first start finds, and also what a failed card or a mistaken
`rm` leaves. The lock file tells the two apart: once there is an account, it says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import StoreError
from edge_runtime.process.directories import sync_directory

__all__ = ["has_account", "note_account"]

_MARK = b"an account of spent privacy is kept beside this file\n"


def has_account(lock: BinaryIO) -> bool:
    """Whether there was an account before.

    Parameters
    ----------
    lock : file
        The lock file, open for appending.
    """
    return os.fstat(lock.fileno()).st_size > 0


def note_account(path: Path, lock: BinaryIO) -> None:
    """Note that there is an account now, durably, and the file's own name before.

    Raises
    ------
    StoreError
        When the disk refuses.
    """
    if has_account(lock):
        return
    try:
        sync_directory(path.parent)
        os.write(lock.fileno(), _MARK)
        os.fsync(lock.fileno())
    except OSError as error:
        raise StoreError(f"{lock.name} cannot be written ({error.strerror})") from error
