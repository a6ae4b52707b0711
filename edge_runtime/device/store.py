"""One SQLite file per device: codes, ledger, outbox, plans and checkpoints.

Everything that must be true together lies in one file, so that spending and enqueueing can be one
transaction. Each thread opens its own `Store`; SQLite's write-ahead log lets one read while another
writes. Commits are synchronous: what a method returned from survives a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DamagedStoreError, StoreError
from edge_runtime.process.write_ahead import write_ahead

__all__ = ["Code", "CodeSet", "Store", "damage", "passes"]

#: kinds of SQLite's errors that a machine causes, and that a later try may not meet
_PASSING = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
)  # fmt: skip

_VERSION = 1

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE codes (
    part INTEGER PRIMARY KEY AUTOINCREMENT,
    codec_digest TEXT NOT NULL,
    rows INTEGER NOT NULL,
    itemsize INTEGER NOT NULL,
    packed BLOB NOT NULL
);
CREATE TABLE plans (
    id TEXT PRIMARY KEY,
    received INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    plan BLOB NOT NULL
);
CREATE TABLE checkpoints (plan_id TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    rows INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    payload BLOB NOT NULL
);
"""

#: since version 1, which reads files without it
_WINDOWS = """
CREATE TABLE IF NOT EXISTS windows (
    number INTEGER PRIMARY KEY,
    series BLOB NOT NULL,
    place INTEGER NOT NULL,
    static BLOB NOT NULL,
    filled BLOB NOT NULL,
    enough INTEGER NOT NULL,
    counted INTEGER,
    packed BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS windows_key ON windows (series, place, static);
CREATE UNIQUE INDEX IF NOT EXISTS windows_counted ON windows (counted);
CREATE INDEX IF NOT EXISTS windows_waiting ON windows (number) WHERE counted IS NULL AND enough;
"""


Code = TypeVar("Code", bound=np.integer)


class CodeSet(NamedTuple):
    """Local codes of one codec, read back from the store."""

    #: int32 [rows, columns], C-contiguous
    codes: npt.NDArray[np.int32]
    #: the last part that was read; with the codec's digest it names the rows
    last_part: int


class Store:
    """A connection to the device's one file.

    Parameters
    ----------
    path : Path
        The file; created with its tables when missing.
    max_code_bytes : int
        Bound of the packed codes; an append beyond it is refused.
    known : bool
        Whether there was such a file before: then one without tables is not filled anew.

    Raises
    ------
    StoreError
        When the file cannot be opened, is damaged or was written by another version.
    """

    def __init__(self, path: Path, *, max_code_bytes: int = 1 << 30, known: bool = False) -> None:
        self.path = path
        self.max_code_bytes = max_code_bytes
        try:
            self.connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            # The order matters: journal_mode first, so that no rollback journal is ever made.
            write_ahead(self.connection)
            for pragma in ("synchronous=FULL", "foreign_keys=ON"):
                self.connection.execute(f"PRAGMA {pragma}")
            # A small page cache (KiB): this process shares a board with the work it observes, has
            # two connections, and reads what is large once, from its first byte to its last.
            self.connection.execute("PRAGMA cache_size=-256")
            self._prepare(known=known)
        except sqlite3.Error as error:
            raise StoreError(
                f"{path} cannot be opened ({error}); if the disk is full, free some space; if the "
                "file is damaged, keep it aside: it holds the account of the privacy already spent"
            ) from error

    def _prepare(self, *, known: bool) -> None:
        with self.transaction():
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            if version == 0 and known:
                raise DamagedStoreError(
                    f"{self.path} is gone or empty, and with it the account of the privacy already "
                    "spent; restore its backup, or retire this device's rows: with other rows "
                    f"remove {self.path.with_name('lock')} to begin anew"
                )
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    if statement.strip():
                        self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version={_VERSION}")
            elif version != _VERSION:
                raise StoreError(
                    f"{self.path} is of format {version}, this release reads {_VERSION}; run the "
                    "release that wrote it"
                )
            for statement in _WINDOWS.split(";\n"):
                if statement.strip():
                    self.connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one durable transaction; an exception undoes all of it.

        Raises
        ------
        StoreError
            When SQLite refuses, for example because the disk is full.
        DamagedStoreError
            When the file is damaged.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise damage(self.path, error) or StoreError(
                f"{self.path} cannot be written: {error}"
            ) from error
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException as error:
            # A full disk may have rolled back by itself already.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                found = damage(self.path, error)
                if found is not None:
                    raise found from error
                raise StoreError(
                    f"{self.path} cannot be written: {error}; nothing accepted before is lost"
                ) from error
            raise

    # -- small values -----------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """Value of a key, or None."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Set a key; part of the caller's transaction, or a durable one of its own."""
        self._write("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def delete(self, key: str) -> None:
        """Remove a key; part of the caller's transaction, or a durable one of its own."""
        self._write("DELETE FROM meta WHERE key = ?", (key,))

    def counter(self, key: str, add: int = 0) -> int:
        """Add to a counter that starts at 0 and return its new value."""
        value = int(self.get(key) or 0) + add
        if add:
            self.put(key, str(value).encode())
        return value

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        if self.connection.in_transaction:
            self.connection.execute(statement, values)
        else:
            with self.transaction():
                self.connection.execute(statement, values)

    # -- codes ------------------------------------------------------------------------------

    def append_codes(self, codec_digest: str, codes: npt.NDArray[np.int32]) -> None:
        """Append encoded real rows, inside or outside a transaction.

        Parameters
        ----------
        codec_digest : str
            The codec that made them.
        codes : int32 [rows, columns]
            Non-negative codes; packed to the narrowest of 1, 2 or 4 bytes.

        Raises
        ------
        StoreError
            When the store would exceed its bound; nothing is appended then.
        """
        if codes.shape[0] == 0:
            return
        top = int(codes.max(initial=0))
        width = np.uint8 if top < 1 << 8 else np.uint16 if top < 1 << 16 else np.uint32
        packed = codes.astype(width).tobytes()
        self.check_room(len(packed))
        self._write(
            "INSERT INTO codes (codec_digest, rows, itemsize, packed) VALUES (?, ?, ?, ?)",
            (codec_digest, codes.shape[0], np.dtype(width).itemsize, packed),
        )

    def code_bytes(self) -> int:
        """Bytes of all packed codes, windows included."""
        (rows,) = self.connection.execute(
            "SELECT COALESCE(SUM(LENGTH(packed)), 0) FROM codes"
        ).fetchone()
        # Windows are of one length and none is deleted but all.
        (windows,) = self.connection.execute(
            "SELECT COALESCE(MAX(number) * LENGTH(packed), 0) FROM windows"
        ).fetchone()
        return int(rows) + int(windows)

    def check_room(self, size: int) -> None:
        """Refuse codes of so many bytes that the store must not grow by.

        Raises
        ------
        StoreError
            When the store would exceed its bound.
        """
        if self.code_bytes() + size > self.max_code_bytes:
            raise StoreError(
                f"the local store has reached limits.store_bytes = {self.max_code_bytes}; intake "
                "stops, everything accepted is kept; raise the limit to go on"
            )

    def code_rows(self, codec_digest: str) -> int:
        """Exact number of local rows of a codec: private, never to be sent or logged."""
        (total,) = self.connection.execute(
            "SELECT COALESCE(SUM(rows), 0) FROM codes WHERE codec_digest = ?", (codec_digest,)
        ).fetchone()
        return int(total)

    def read_codes(self, codec_digest: str, *, up_to_part: int | None = None) -> CodeSet:
        """Read the codes of a codec.

        Parameters
        ----------
        up_to_part : int, optional
            Ignore parts that came later: a resumed training sees the rows it began with.
        """
        return CodeSet(*self._read_codes(codec_digest, up_to_part, np.dtype(np.int32)))

    def read_narrow_codes(
        self, codec_digest: str, *, up_to_part: int | None, dtype: np.dtype[np.unsignedinteger]
    ) -> npt.NDArray[np.unsignedinteger]:
        """Read codes as `read_codes` does, in a type that holds them in less memory."""
        return self._read_codes(codec_digest, up_to_part, dtype)[0]

    def _read_codes(
        self, codec_digest: str, up_to_part: int | None, dtype: np.dtype[Code]
    ) -> tuple[npt.NDArray[Code], int]:
        condition = (codec_digest, up_to_part if up_to_part is not None else (1 << 62))
        (rows,) = self.connection.execute(
            "SELECT COALESCE(SUM(rows), 0) FROM codes WHERE codec_digest = ? AND part <= ?",
            condition,
        ).fetchone()
        codes = np.zeros((rows, 0), dtype=dtype)
        filled = last = 0
        for part, count, itemsize, packed in self.connection.execute(
            "SELECT part, rows, itemsize, packed FROM codes WHERE codec_digest = ? AND part <= ? "
            "ORDER BY part",
            condition,
        ):
            piece = np.frombuffer(packed, dtype=np.dtype(f"<u{itemsize}")).reshape(count, -1)
            if not codes.shape[1]:
                # All rows at once: pieces joined later would need the memory twice.
                codes = np.empty((rows, piece.shape[1]), dtype=dtype)
            codes[filled : filled + count] = piece
            filled += count
            last = part
        return codes, last

    def drop_codes(self, *, keep_digest: str | None = None) -> None:
        """Delete the codes of all codecs, or of all but one; the source can be read again."""
        self._write("DELETE FROM codes WHERE codec_digest IS NOT ?", (keep_digest,))
        self._write("DELETE FROM windows", ())

    # -- checkpoints ------------------------------------------------------------------------

    def save_checkpoint(self, plan_id: str, data: bytes) -> None:
        """Keep the state of an unfinished training, replacing the one before."""
        self._write(
            "INSERT OR REPLACE INTO checkpoints (plan_id, data) VALUES (?, ?)", (plan_id, data)
        )

    def load_checkpoint(self, plan_id: str) -> bytes | None:
        """State of an unfinished training, or None."""
        row = self.connection.execute(
            "SELECT data FROM checkpoints WHERE plan_id = ?", (plan_id,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def drop_checkpoint(self, plan_id: str) -> None:
        """Forget a checkpoint."""
        self._write("DELETE FROM checkpoints WHERE plan_id = ?", (plan_id,))

    def close(self) -> None:
        """Close the connection; committed work stays."""
        self.connection.close()


def passes(error: sqlite3.Error) -> bool:
    """Whether SQLite was refused something by the machine, as by a full disk: no fault of ours."""
    # The lowest byte of an extended code says what kind it is.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def damage(path: Path, error: sqlite3.Error) -> DamagedStoreError | None:
    """Return what to raise when SQLite has found a file damaged; None for any other failure."""
    # SQLite's malformed files, and files that are none, are of this type and of no derived one.
    if type(error) is not sqlite3.DatabaseError:
        return None
    return DamagedStoreError(
        f"{path} is damaged ({error}) and holds the account of the privacy already spent; keep it "
        "aside and restore its backup, or retire this device's rows"
    )
