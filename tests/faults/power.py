"""What a power cut may leave of files: everything that was synced, and any part of the rest.

`shim.c` notes every change together with what it replaced, and every fsync that has returned.
After a SIGKILL, `cut_power` takes the disk back to what the syncs cover and then lets a random
part of the later changes reach it: nothing at all, everything up to one torn write, or any of their
sectors, in any order. Names (created, replaced, removed) are kept up to a random one of those that
no sync of their directory covers.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Change", "cut_power", "read_journal"]

_HEAD = struct.Struct("=QQqqIIII")
#: the unit in which a disk writes: a sector is whole or was not written
_SECTOR = 512
_YOUNG_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """One record of the journal; `op` as in shim.c."""

    op: str
    inode: int
    offset: int
    #: of the file before the change
    size: int
    path: Path
    #: where a file was renamed to
    other: str
    old: bytes
    new: bytes


@dataclass
class _File:
    """A file's bytes as synced, and the changes since."""

    data: bytearray
    changes: list[Change] = field(default_factory=list)


def read_journal(path: Path) -> list[Change]:
    """Read all records; a last one that the kill has cut short never took place."""
    data, place, found = path.read_bytes(), 0, []
    while place + _HEAD.size <= len(data):
        op, inode, offset, size, *lengths = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        if place + sum(lengths) > len(data):
            break
        parts = []
        for length in lengths:
            parts.append(data[place : place + length])
            place += length
        found.append(
            Change(
                op=chr(op),
                inode=inode,
                offset=offset,
                size=size,
                path=Path(os.fsdecode(parts[0])),
                other=os.fsdecode(parts[1]),
                old=parts[2],
                new=parts[3],
            )
        )
    return found


def cut_power(*, root: Path, journal: Path, rng: random.Random) -> int:
    """Take back what was not synced; the processes that wrote are dead.

    Parameters
    ----------
    root : Path
        The directory that the shim has watched; `<root>.graves` holds what lost its name.
    journal : Path
        Emptied afterwards: what is left is on the disk.
    rng : random.Random
        Decides what is lost.

    Returns
    -------
    int
        Writes, sizes and names that were lost, whole or in part.
    """
    changes = read_journal(journal)
    graves = Path(f"{root}.graves")
    lost = _take_back_bytes(changes, [root, graves], rng) + _take_back_names(changes, rng)
    for path in root.rglob("*-shm"):
        path.unlink()  # SQLite's shared memory never outlives the processes
    forget(journal=journal, root=root)
    return lost


def forget(*, root: Path, journal: Path) -> None:
    """Take everything so far as written, as it is after a while; the process may be running."""
    os.truncate(journal, 0)
    for path in Path(f"{root}.graves").iterdir():
        # A younger one may be about to be noted; it may be a link that leads nowhere by now.
        if time.time() - path.lstat().st_ctime > _YOUNG_S:
            path.unlink()


def _take_back_bytes(changes: list[Change], roots: list[Path], rng: random.Random) -> int:
    unsynced: dict[int, list[Change]] = {}
    for change in changes:
        if change.op == "S":
            unsynced.pop(change.inode, None)
        elif change.op in "WT":
            unsynced.setdefault(change.inode, []).append(change)
    paths = {
        path.stat().st_ino: path for root in roots for path in root.rglob("*") if path.is_file()
    }
    lost = 0
    for inode, later in unsynced.items():
        path = paths.get(inode)
        if path is None or path.name.endswith("-shm"):
            continue
        file = _File(bytearray(path.read_bytes()), later)
        for change in reversed(later):
            _undo(file.data, change)
        lost += _redo_some(file, rng)
        path.write_bytes(file.data)
    return lost


def _undo(data: bytearray, change: Change) -> None:
    data[change.offset : change.offset + len(change.old)] = change.old
    del data[change.size :]
    data.extend(bytes(change.size - len(data)))


def _redo_some(file: _File, rng: random.Random) -> int:
    """Let a random part of the changes reach the disk; return how many did not, wholly."""
    way = rng.choice(["none", "torn", "any"])
    reached = {"none": 0, "torn": rng.randint(0, len(file.changes))}.get(way, len(file.changes))
    for number, change in enumerate(file.changes[:reached]):
        last = number == reached - 1
        if change.op == "T":
            del file.data[change.offset :]
            file.data.extend(bytes(change.offset - len(file.data)))
            continue
        for start, end in _sectors(change):
            if way == "any" and rng.random() < 0.5:
                continue
            if way == "torn" and last and rng.random() < 0.2:
                break
            missing = start - len(file.data)
            # A file may have grown over sectors whose bytes were never written.
            file.data.extend(rng.randbytes(missing) if missing > 0 else b"")
            file.data[start:end] = change.new[start - change.offset : end - change.offset]
    return len(file.changes) - (reached if way == "torn" else 0)


def _sectors(change: Change) -> list[tuple[int, int]]:
    end = change.offset + len(change.new)
    starts = [change.offset, *range((change.offset // _SECTOR + 1) * _SECTOR, end, _SECTOR)]
    return list(zip(starts, [*starts[1:], end], strict=True))


def _take_back_names(changes: list[Change], rng: random.Random) -> int:
    unsynced: list[Change] = []
    for change in changes:
        if change.op == "D":
            unsynced = [c for c in unsynced if _directory(c) != change.path]
        elif change.op in "CRUM":
            unsynced.append(change)
    # A journalling file system keeps their order.
    lost = unsynced[rng.randint(0, len(unsynced)) :]
    for change in reversed(lost):
        grave = Path(os.fsdecode(change.old)) if change.old else None
        match change.op:
            case "C":
                change.path.unlink(missing_ok=True)
            case "M":
                shutil.rmtree(change.path, ignore_errors=True)
            case "R":
                target = Path(change.other)
                if target.exists() and change.path.parent.exists():
                    target.replace(change.path)
                if grave is not None and grave.exists() and target.parent.exists():
                    grave.replace(target)
            case "U":
                if grave is not None and grave.exists() and change.path.parent.exists():
                    grave.replace(change.path)
    return len(lost)


def _directory(change: Change) -> Path:
    return Path(change.other or change.path).parent
