from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.privacy import Ledger

DELTA = 1e-5


def open_file(path: Path) -> sqlite3.Connection:
    """A connection as the device's store opens it."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    # The usual choice beside WAL; the ledger must not rely on it.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    return tmp_path / "device.sqlite"


@pytest.fixture
def open_ledger(ledger_path: Path) -> Iterator[Callable[..., tuple[Ledger, sqlite3.Connection]]]:
    connections: list[sqlite3.Connection] = []

    def opener(epsilon_limit: float | None = 8.0, delta: float = DELTA):
        connection = open_file(ledger_path)
        connections.append(connection)
        return Ledger(connection, epsilon_limit=epsilon_limit, delta=delta), connection

    yield opener
    for connection in connections:
        connection.close()
