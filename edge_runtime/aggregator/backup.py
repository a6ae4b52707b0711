"""A copy of an aggregator's data directory that can take its place, made while it runs.

The order makes it one moment: first the catalogue, as it stands, then the files that this copy of
it names. Files are synced before the catalogue names them and not changed afterwards, so all of
them are there; the one exception, a batch that the guard sets aside in between, is met by beginning
again. Whatever was acknowledged before the backup began is in it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge_runtime.aggregator.files import sync_file
from edge_runtime.aggregator.opening import open_workspace
from edge_runtime.errors import AggregatorError

__all__ = ["Backup", "back_up"]

_CATALOGUE = "catalogue.sqlite"
#: how often it begins again; the guard sets a batch aside once
_ATTEMPTS = 5


class Backup(NamedTuple):
    """What a backup holds."""

    path: Path
    #: files that the catalogue names, and their bytes
    files: int
    size_bytes: int
    #: files among them that an earlier backup in the same place had already
    kept: int


def back_up(data_dir: Path, to: Path) -> Backup:
    """Copy a data directory, whether an aggregator works on it or not.

    Parameters
    ----------
    data_dir : Path
        The aggregator's data directory.
    to : Path
        A new directory, or one with an earlier backup: that one stays whole until the new one is,
        and only what is new is copied. Written releases are not copied; the pool repeats them.

    Returns
    -------
    Backup

    Raises
    ------
    AggregatorError
        If the directory is not an aggregator's, its catalogue is another database's, `to` is no
        place for it, or a file that the catalogue names is missing.
    OSError
        If the copy cannot be written.
    """
    source, target = data_dir.resolve(), to.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise AggregatorError(f"{to} and {data_dir} lie in each other; name another place")
    if target.exists() and any(target.iterdir()) and not (target / _CATALOGUE).exists():
        raise AggregatorError(f"{to} holds something else than a backup; name a new directory")
    _check_catalogue(data_dir)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = target / f"{_CATALOGUE}.new"
    for _ in range(_ATTEMPTS):
        _copy_catalogue(source / _CATALOGUE, fresh)
        try:
            made = _copy_files(source, target, list(_named(fresh)))
        except FileNotFoundError as error:
            missing = error.filename
            continue
        # An open catalogue leaves these behind when it is cut off; they are the old one's.
        for suffix in ("-wal", "-shm"):
            (target / f"{_CATALOGUE}{suffix}").unlink(missing_ok=True)
        # Last: until here the earlier backup is whole.
        fresh.replace(target / _CATALOGUE)
        sync_file(target)
        return made
    fresh.unlink()
    raise AggregatorError(
        f"{missing} is in the catalogue but not on the disk: this data directory is damaged. "
        f"What {to} held before is as it was; keep it"
    )


def _check_catalogue(data_dir: Path) -> None:
    workspace = open_workspace(data_dir)
    try:
        url = workspace.catalogue.engine.url
        if url.get_backend_name() != "sqlite" or not _same(url.database, data_dir / _CATALOGUE):
            raise AggregatorError(
                f"the catalogue is {workspace.catalogue.name}: back that database up with its own "
                f"tool first, then copy {data_dir}"
            )
    finally:
        workspace.close()


def _same(database: str | None, path: Path) -> bool:
    return bool(database) and Path(str(database)).resolve() == path.resolve()


def _copy_catalogue(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=30)) as opened:
            # One read transaction: what was committed before it is in the copy, with its log.
            opened.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise AggregatorError(f"the catalogue {source} cannot be copied: {error}") from error
    sync_file(target)


def _named(catalogue: Path) -> Iterator[str]:
    """Yield the paths that a catalogue needs, relative to the data directory."""
    with closing(sqlite3.connect(f"{catalogue.as_uri()}?mode=ro", uri=True)) as database:
        for table in ("messages", "bundles"):
            # Once each: batches that were committed together share a file.
            query = f"SELECT DISTINCT path FROM {table} WHERE path != ''"  # noqa: S608
            found = database.execute(query)
            yield from (str(path) for (path,) in found)


def _copy_files(source: Path, target: Path, named: list[str]) -> Backup:
    size = kept = 0
    for path in named:
        size += (source / path).stat().st_size
        kept += not _copy(source / path, target / path)
        # A strategy's state beside its bundle, the reason beside what was set aside.
        for suffix in (".state", ".json"):
            beside = Path(path).with_suffix(suffix)
            if (source / beside).exists():
                _copy(source / beside, target / beside)
    return Backup(target, len(named), size, kept)


def _copy(source: Path, target: Path) -> bool:
    """Copy a file and sync it; False where it is there already, by its size and time."""
    wanted = source.stat()
    if target.exists():
        found = target.stat()
        if (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return False
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.copy2(source, fresh)
    sync_file(fresh)
    fresh.replace(target)
    sync_file(target.parent)
    return True
