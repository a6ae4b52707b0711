"""The write-ahead log of SQLite, while somebody looks."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.process import write_ahead as module
from edge_runtime.process.write_ahead import write_ahead


class _Counting(sqlite3.Connection):
    """Tells how often it was asked for the log."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.tries = threading.Semaphore(0)

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if sql.endswith("=WAL"):
            self.tries.release()
        return super().execute(sql, *arguments)


def _mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_it_waits_until_those_who_look_are_done(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    owner = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Counting)
    with closing(owner), closing(sqlite3.connect(path, isolation_level=None)) as looking:
        owner.execute("CREATE TABLE kept (a)")
        looking.execute("BEGIN")
        looking.execute("SELECT * FROM kept").fetchall()
        thread = threading.Thread(target=write_ahead, args=(owner,))
        thread.start()
        for _ in range(3):
            assert owner.tries.acquire(timeout=20)
        assert thread.is_alive()
        looking.execute("ROLLBACK")
        thread.join(20)
        assert not thread.is_alive()
        assert _mode(owner) == "wal"


def test_it_says_who_is_in_the_way_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    path = tmp_path / "new.sqlite"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as owner,
        closing(sqlite3.connect(path, isolation_level=None)) as looking,
    ):
        owner.execute("CREATE TABLE kept (a)")
        looking.execute("BEGIN")
        looking.execute("SELECT * FROM kept").fetchall()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            write_ahead(owner)


def test_what_is_no_lock_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "no.sqlite"
    path.write_bytes(b"this is no database, whatever it is called" * 40)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.DatabaseError):
        write_ahead(connection)
