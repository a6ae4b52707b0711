"""Whether what was acknowledged is in the pool, each batch once."""

from __future__ import annotations

import collections
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

__all__ = ["Found", "check"]


class Found(NamedTuple):
    """What a data directory holds of a run.

    `committed` counts batches that the catalogue accepted; `lost` those acknowledged that it does
    not have, or whose rows the pool has not all; `duplicated` those whose rows the pool has more
    than once, or under two names of the catalogue; `files` and `pool_bytes` are the pool's.
    """

    committed: int
    lost: int
    duplicated: int
    files: int
    pool_bytes: int


def check(data_dir: Path, acknowledged: Path) -> Found:
    """Hold a stopped aggregator's directory against what devices were told.

    Parameters
    ----------
    data_dir : Path
        The aggregator's.
    acknowledged : Path
        Lines of message id and status.
    """
    told = {
        line.split()[0]
        for line in acknowledged.read_text().splitlines()
        if line.endswith((" accepted", " duplicate"))
    }
    with closing(sqlite3.connect(data_dir / "catalogue.sqlite")) as database:
        accepted = list(
            database.execute(
                "SELECT id, path, rows FROM messages WHERE kind = 'batch' AND status = 'accepted'"
            )
        )
    wanted = {message: rows for message, _, rows in accepted}
    pooled: collections.Counter[str] = collections.Counter()
    paths = {path for _, path, _ in accepted}
    for path in paths:
        column = pq.ParquetFile(data_dir / path).read(["message"]).column("message")
        for entry in column.value_counts().to_pylist():
            pooled[entry["values"]] += entry["counts"]
    return Found(
        committed=len(accepted),
        lost=sum(pooled[message] < wanted.get(message, 1) for message in told),
        duplicated=sum(rows > wanted.get(message, 0) for message, rows in pooled.items())
        + len(accepted)
        - len(wanted),
        files=len(paths),
        pool_bytes=sum((data_dir / path).stat().st_size for path in paths),
    )
