"""A device whose account of spent privacy has gone must not begin another one by itself.

A missing or empty file is what a first start finds, and also what a failed card or a mistaken
`rm` leaves. The lock file tells the two apart: once there is an account, it says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from edge_runtime.device.files import sync_directory
from edge_runtime.errors import DamagedStoreError, StoreError

__all__ = ["check_account", "note_account"]

_MARK = b"an account of spent privacy is kept beside this file\n"


def check_account(path: Path, lock: BinaryIO) -> None:
    """Refuse to go on without the file that was there before.

    Parameters
    ----------
    path : Path
        The device's one file.
    lock : file
        The lock file, open for appending.

    Raises
    ------
    DamagedStoreError
        When it is gone or empty, and so is SQLite's log beside it.
    """
    parts = (path, path.with_name(f"{path.name}-wal"))
    if os.fstat(lock.fileno()).st_size == 0 or any(p.exists() and p.stat().st_size for p in parts):
        return
    raise DamagedStoreError(
        f"{path} is gone or empty, and with it the account of the privacy already spent; restore "
        f"its backup, or retire this device's rows: with other rows remove {lock.name} to begin "
        "anew"
    )


def note_account(path: Path, lock: BinaryIO) -> None:
    """Note that there is an account now, durably, and the file's own name before.

    Raises
    ------
    StoreError
        When the disk refuses.
    """
    if os.fstat(lock.fileno()).st_size:
        return
    try:
        sync_directory(path.parent)
        os.write(lock.fileno(), _MARK)
        os.fsync(lock.fileno())
    except OSError as error:
        raise StoreError(f"{lock.name} cannot be written ({error.strerror})") from error
