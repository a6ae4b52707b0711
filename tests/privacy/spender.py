"""A device process for the crash tests: spends, optionally dies at a chosen moment.

Arguments: file, epsilon limit, prefix of the keys, mode. Each returned spend prints its key.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys

from edge_runtime.errors import BudgetError
from edge_runtime.privacy import Ledger, rdp_gaussian


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    path, limit, prefix, mode = sys.argv[1:5]
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY)")
    ledger = Ledger(connection, epsilon_limit=float(limit), delta=1e-5)

    def die_at(word: str) -> None:
        def trace(statement: str) -> None:
            if statement.startswith(word):
                die()

        connection.set_trace_callback(trace)

    cost = rdp_gaussian(20.0)
    if mode == "die before commit":
        die_at("COMMIT")
    if mode == "die at insert":
        die_at("INSERT INTO ledger_entries")
    number = 0
    while True:
        key = f"{prefix}-{number}"
        try:
            ledger.spend(key=key, what="test", rdp=cost, details={"sigma": 20})
        except BudgetError:
            print("full", flush=True)
            return
        print(key, flush=True)
        number += 1
        if mode == "die after spend":
            die()
        if mode in {"die while releasing", "die after releasing"}:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO outbox VALUES (?)", (key,))
            ledger.mark_released(key, key)
            if mode == "die while releasing":
                die()
            connection.execute("COMMIT")
            die()


main()
