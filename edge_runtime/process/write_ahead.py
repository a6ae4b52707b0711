"""SQLite's write-ahead log, turned on while others may be looking."""

from __future__ import annotations

import sqlite3
import time

__all__ = ["write_ahead"]

#: as long as statements wait for a lock
_PATIENCE_S = 30.0
_PAUSE_S = 0.01


def write_ahead(connection: sqlite3.Connection) -> None:
    """Turn on a database's write-ahead log; it stays on in the file.

    Statements wait for a lock as long as the connection's timeout says. This change does not: a
    command that looks at a new database at that moment would end the process that owns it.

    Parameters
    ----------
    connection : sqlite3.Connection
        Outside a transaction.

    Raises
    ------
    sqlite3.OperationalError
        Others held the database for half a minute, or it cannot be changed.
    """
    ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # The lower byte: the upper ones say how it came to be busy.
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > ends:
                raise
        else:
            return
        time.sleep(_PAUSE_S)
