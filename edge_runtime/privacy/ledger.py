"""The durable account of privacy spent, in the device's SQLite file.

Rules that make it an account one can rely on:

* spend first: an entry is committed and synced to disk before any noise is drawn for it;
* entries are only ever added; the one later change is the mark that the release left;
* no clock is read: what was spent depends on the entries alone;
* each entry carries a hash of itself and its predecessor, so damage is noticed at the next start.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.errors import BudgetError, LedgerBusyError, LedgerError
from edge_runtime.privacy.accountant import F64, ORDERS, to_epsilon

__all__ = ["Entry", "Ledger", "read_entries"]

_FORMAT = 1
#: what the file says of itself
_META = {"format": str(_FORMAT).encode(), "orders": ORDERS.astype("<f8").tobytes()}

_TABLES = """
CREATE TABLE IF NOT EXISTS ledger_meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ledger_entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    what TEXT NOT NULL,
    rdp BLOB,               -- float64 little endian, one per order; NULL = without privacy
    details TEXT NOT NULL,  -- JSON
    hash BLOB NOT NULL,     -- SHA-256 of the previous hash and all columns above
    released INTEGER NOT NULL DEFAULT 0,
    message_id TEXT
);
CREATE TRIGGER IF NOT EXISTS ledger_no_delete BEFORE DELETE ON ledger_entries
BEGIN SELECT RAISE(ABORT, 'ledger entries are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS ledger_no_change
BEFORE UPDATE OF number, key, what, rdp, details, hash ON ledger_entries
BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END;
CREATE TRIGGER IF NOT EXISTS ledger_no_recall BEFORE UPDATE ON ledger_entries
WHEN old.released = 1
BEGIN SELECT RAISE(ABORT, 'a release cannot be taken back'); END;
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger.

    Attributes
    ----------
    number : int
        Position in the ledger, from 1.
    key : str
        Chosen by the caller, unique: the plan and what is released in it.
    what : str
        For people.
    rdp : float64 [orders] or None
        Cost; None = a release without privacy.
    epsilon_after : float
        Cumulative epsilon once this entry is counted, at the ledger's delta.
    details : dict
        What the caller needs to carry on after a restart (noise scale, steps, ...).
    released : bool
        Whether the release has been handed to the outbox.
    message_id : str or None
    """

    number: int
    key: str
    what: str
    rdp: F64 | None
    epsilon_after: float
    details: dict[str, Any]
    released: bool
    message_id: str | None

    def covers(self, cost: F64) -> bool:
        """Whether at least `cost` was paid, at every order."""
        return self.rdp is None or bool(np.all(self.rdp >= cost))


class Ledger:
    """The account, on a connection owned by the caller.

    Parameters
    ----------
    connection : sqlite3.Connection
        Of the device's store. Set to `PRAGMA synchronous = FULL`, which it keeps.
    epsilon_limit : float or None
        What all releases together may reach at `delta`; None = this device allows releases
        without privacy, and there is no limit.
    delta : float
        Between 0 and 1; epsilon is always stated at this delta.

    Raises
    ------
    LedgerError
        If the file's ledger is damaged or was written for other orders.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, epsilon_limit: float | None, delta: float
    ) -> None:
        if epsilon_limit is not None and not (
            math.isfinite(epsilon_limit) and epsilon_limit >= 0.0
        ):
            raise LedgerError(f"epsilon limit {epsilon_limit} is not a number >= 0")
        if not 0.0 < delta < 1.0:
            raise LedgerError(f"delta {delta} is not between 0 and 1")
        self.epsilon_limit = epsilon_limit
        self.delta = delta
        self._connection = connection
        self._lock = threading.RLock()
        with self._transaction():
            # executescript() would commit by itself; statements one by one stay in ours.
            for statement in _statements(_TABLES):
                connection.execute(statement)
            self._check_meta()
            self._read()

    def spend(self, *, key: str, what: str, rdp: F64 | None, details: Mapping[str, Any]) -> Entry:
        """Record a cost durably; only after this returns may noise be drawn for it.

        Asking again with the key of an entry that was not released (after a crash) returns that
        entry and spends nothing: its release never left, and draws fresh noise when repeated.

        Parameters
        ----------
        key, what : str
        rdp : float64 [orders] or None
            None = release without privacy, only where `epsilon_limit` is None.
        details : mapping
            JSON values.

        Returns
        -------
        Entry

        Raises
        ------
        BudgetError
            If the limit would be exceeded; nothing is recorded.
        LedgerError
            If `key` was released before or was paid for with less, if a transaction is open (its
            commit, not this call, would make the entry durable), or if `rdp` is malformed.
        """
        blob = None if rdp is None else _to_blob(rdp)
        text = json.dumps(dict(details), sort_keys=True, allow_nan=False)
        with self._transaction():
            entries, head = self._read()
            for entry in entries:
                if entry.key == key:
                    return self._again(entry, rdp)
            before = self._sum(entries)
            after = before + (np.inf if rdp is None else rdp)
            self._check_limit(what, before, after)
            digest = _hash(head, len(entries) + 1, key, what, text, rdp=blob)
            self._connection.execute(
                "INSERT INTO ledger_entries (number, key, what, rdp, details, hash)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (len(entries) + 1, key, what, blob, text, digest),
            )
            # Leaving the block commits; only then does the caller get the entry.
            return self._read()[0][-1]

    def mark_released(self, key: str, message_id: str) -> None:
        """Note that the release of `key` was handed over, inside the caller's transaction.

        Does not commit: the caller commits it together with the outbox entry, so that after a
        crash either both are there or neither.

        Raises
        ------
        LedgerError
            If nothing was spent for `key`, it was released before, or no transaction is open.
        """
        with self._lock:
            if not self._is_open():
                raise LedgerError(
                    f"{key!r} must be marked inside the transaction that fills the outbox"
                )
            changed = self._connection.execute(
                "UPDATE ledger_entries SET released = 1, message_id = ?"
                " WHERE key = ? AND released = 0",
                (message_id, key),
            ).rowcount
            if changed != 1:
                raise LedgerError(f"{key!r} was never spent, or was released before")

    def rdp_spent(self) -> F64:
        """Sum of all costs, float64 [orders]; infinite after a release without privacy."""
        return self._sum(self.entries())

    def epsilon_spent(self) -> float:
        """Cumulative epsilon at the ledger's delta."""
        return to_epsilon(self.rdp_spent(), self.delta)

    def epsilon_left(self) -> float:
        """Return what is left below the limit, 0 or more; infinity without a limit."""
        if self.epsilon_limit is None:
            return math.inf
        return max(0.0, self.epsilon_limit - self.epsilon_spent())

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        with self._lock:
            return self._read()[0]

    def find(self, key: str) -> Entry | None:
        """Return the entry of `key`, if one was spent."""
        return next((entry for entry in self.entries() if entry.key == key), None)

    @staticmethod
    def _again(entry: Entry, rdp: F64 | None) -> Entry:
        if entry.released:
            raise LedgerError(
                f"{entry.key!r} was released as message {entry.message_id}; a second release "
                "needs a key and a cost of its own"
            )
        if entry.rdp is not None and (rdp is None or not entry.covers(rdp)):
            raise LedgerError(
                f"{entry.key!r} was paid for with less than is asked now; carry on with the "
                "parameters in the entry's details"
            )
        return entry

    def _check_limit(self, what: str, before: F64, after: F64) -> None:
        if self.epsilon_limit is None:
            return
        needed = to_epsilon(after, self.delta)
        if needed > self.epsilon_limit:
            raise BudgetError(
                what,
                needed=needed,
                spent=to_epsilon(before, self.delta),
                limit=self.epsilon_limit,
            )

    def _read(self) -> tuple[list[Entry], bytes]:
        return _read(self._connection, self.delta)

    @staticmethod
    def _sum(entries: list[Entry]) -> F64:
        total = np.zeros_like(ORDERS)
        for entry in entries:
            total = total + (np.inf if entry.rdp is None else entry.rdp)
        return total

    def _check_meta(self) -> None:
        for name, value in _META.items():
            self._connection.execute(
                "INSERT OR IGNORE INTO ledger_meta (name, value) VALUES (?, ?)", (name, value)
            )
        _compare_meta(self._connection)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Open a transaction that is on disk when the block has ended."""
        with self._lock:
            if self._is_open():
                raise LedgerError(
                    "a transaction is open on the ledger's connection; commit it before spending"
                )
            try:
                # FULL syncs at every commit, in WAL mode too; the default of WAL users, NORMAL,
                # would lose the last commits with the power. The setting belongs to the
                # connection, and somebody may have changed it since the last time.
                self._connection.execute("PRAGMA synchronous = FULL")
                # IMMEDIATE takes the write lock before reading, so that two processes cannot both
                # find room for their own release only.
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                # An operational one passes: a full or read-only disk, another writer.
                passes = isinstance(error, sqlite3.OperationalError)
                raise (LedgerBusyError if passes else LedgerError)(
                    f"the ledger cannot be written ({error}), so nothing may be released; see to "
                    "the disk and the file's permissions"
                ) from error
            finally:
                # Some errors, a full disk among them, end the transaction by themselves.
                if self._is_open():
                    self._connection.execute("ROLLBACK")

    def _is_open(self) -> bool:
        return self._connection.in_transaction


def read_entries(connection: sqlite3.Connection, *, delta: float) -> list[Entry]:
    """Read all entries, oldest first, from a connection that need not be able to write.

    Raises
    ------
    LedgerError
        If the ledger is damaged or was written for other orders.
    sqlite3.Error
        If the file has no ledger, or cannot be read.
    """
    _compare_meta(connection)
    return _read(connection, delta)[0]


def _compare_meta(connection: sqlite3.Connection) -> None:
    found = dict(connection.execute("SELECT name, value FROM ledger_meta"))
    if found != _META:
        raise LedgerError(
            "the ledger was written by another version of the accountant; open it with that version"
        )


def _read(connection: sqlite3.Connection, delta: float) -> tuple[list[Entry], bytes]:
    """All entries, verified, and the hash of the last."""
    rows = connection.execute(
        "SELECT number, key, what, rdp, details, hash, released, message_id"
        " FROM ledger_entries ORDER BY number"
    ).fetchall()
    entries: list[Entry] = []
    total = np.zeros_like(ORDERS)
    head = b""
    for expected, row in enumerate(rows, start=1):
        number, key, what, blob, text, digest, released, message_id = row
        head = _hash(head, expected, key, what, text, rdp=blob)
        if number != expected or digest != head:
            raise LedgerError(
                f"entry {expected} of the ledger is damaged; what was spent is unknown, so "
                "nothing more may be released. Restore the file, or retire these rows"
            )
        rdp = None if blob is None else _from_blob(blob)
        total = total + (np.inf if rdp is None else rdp)
        entries.append(
            Entry(
                number=number,
                key=key,
                what=what,
                rdp=rdp,
                epsilon_after=to_epsilon(total, delta),
                details=json.loads(text),
                released=bool(released),
                message_id=message_id,
            )
        )
    return entries, head


def _statements(script: str) -> list[str]:
    statements, current = [], ""
    for line in script.strip().splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _to_blob(rdp: F64) -> bytes:
    if rdp.shape != ORDERS.shape or not bool(np.all(rdp >= 0.0)):
        raise LedgerError("a cost has one number >= 0 for each order")
    return rdp.astype("<f8").tobytes()


def _from_blob(blob: bytes) -> F64:
    return np.frombuffer(blob, dtype="<f8").astype(np.float64)


def _hash(head: bytes, number: int, *texts: str, rdp: bytes | None) -> bytes:
    fields = json.dumps([number, None if rdp is None else rdp.hex(), *texts])
    return hashlib.sha256(head + fields.encode()).digest()
