"""Small files that are either whole and on the disk, or not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.process.directories import sync_directory

__all__ = ["as_owner_of", "write_durably"]


@contextmanager
def as_owner_of(directory: Path) -> Iterator[None]:
    """Do what is inside with the rights of a directory's owner, where root is at work.

    The owner may replace anything in the directory, at any moment, by a link to somewhere else.
    Such a link then leads to nothing that the owner could not do alone.

    Parameters
    ----------
    directory : Path
        It must exist. Its owner must be able to get there.

    Notes
    -----
    The rights are those of the whole process, so that nothing else may run meanwhile.
    """
    owner = directory.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def write_durably(
    path: Path, data: bytes | str, *, mode: int = 0o644, like: Path | None = None
) -> None:
    """Write a file atomically and sync it and its name to the disk.

    Parameters
    ----------
    path : Path
        Its directory must exist. An existing file is replaced.
    data : bytes or str
        Its content; text as UTF-8.
    mode : int
        Permissions, from the moment it exists; never wider, whatever the umask.
    like : Path, optional
        A file, in the same directory, whose permissions and owner the new one gets if it exists.

    Notes
    -----
    Root gives the file to the owner of its directory: what root sets up, a service with a user
    of its own then reads.
    """
    model = path.parent.stat()
    if like is not None and like.exists():
        model = like.stat()
        mode = stat.S_IMODE(model.st_mode)
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if os.geteuid() == 0:
            os.fchown(descriptor, model.st_uid, model.st_gid)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)
