"""The pool: every accepted row of synthetic codes, accumulated in partitioned Parquet.

`pool/round=<r>/device=<d>/<id>.parquet` holds one batch; its code columns are called
`code_<column>`, so that no column of a table can collide with a partition's name. Every row names
where it is from: device and round by the partition, the parent bundle and the generation depth by
columns of their own (constant within a file, so they take a few bytes), and the file all of them
in its mark of synthetic rows, for a reader who has the file alone. A file counts only when the
catalogue names it: one that a crash left behind is swept away, and comes again when its device
sends the batch again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import AggregatorError
from edge_runtime.schema import marked_metadata

if TYPE_CHECKING:
    import ibis.expr.types

__all__ = ["DEPTH", "PARENT", "Pool", "PoolRows"]

#: columns of every file of the pool, beside the codes
PARENT, DEPTH = "parent_bundle", "depth"


class PoolRows(NamedTuple):
    """Pooled rows in memory.

    `codes` is int32 [rows, D], C-contiguous; `device` int32 [rows] indexes `devices`; `round`
    int32 [rows]; `lot` float32 [rows] is a number in [0, 1) that a row keeps for ever (it follows
    from its batch's id and its place), so that a held-out row is never trained on later.
    """

    codes: npt.NDArray[np.int32]
    device: npt.NDArray[np.int32]
    devices: tuple[str, ...]
    round: npt.NDArray[np.int32]
    lot: npt.NDArray[np.float32]

    def take(self, rows: npt.NDArray[np.intp]) -> PoolRows:
        """Return the rows at these places, intp [n]."""
        return PoolRows(
            codes=np.ascontiguousarray(self.codes[rows]),
            device=self.device[rows],
            devices=self.devices,
            round=self.round[rows],
            lot=self.lot[rows],
        )


class Pool:
    """Accepted batches on disk.

    Parameters
    ----------
    data_dir : Path
        The aggregator's data directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self._base = data_dir

    def path_of(self, *, device: str, round_number: int, message_id: str) -> str:
        """Where a batch is kept, relative to the data directory."""
        return f"pool/round={round_number}/device={device}/{message_id}.parquet"

    def write(
        self,
        *,
        device: str,
        round_number: int,
        message_id: str,
        fleet: str,
        bundle_digest: str,
        depth: int,
        names: Sequence[str],
        codes: npt.NDArray[np.int32],
    ) -> str:
        """Write one batch, synced; the same batch again replaces itself.

        Parameters
        ----------
        device, round_number, message_id
            The partition and the file's name.
        fleet : str
            Whose rows they are.
        bundle_digest : str
            Their parent: the bundle that the device started from.
        depth : int
            Generations of synthetic rows behind them, their own included.
        names : sequence of str
            Column names, D of them.
        codes : int32 [rows, D]
            The rows.

        Returns
        -------
        str
            The path relative to the data directory.
        """
        narrow = np.uint8 if codes.size == 0 or codes.max() < 256 else np.uint16
        columns: dict[str, Any] = {
            f"code_{name}": np.ascontiguousarray(codes[:, d].astype(narrow))
            for d, name in enumerate(names)
        }
        columns[PARENT] = pa.repeat(bundle_digest, len(codes))
        columns[DEPTH] = pa.repeat(pa.scalar(depth, pa.uint32()), len(codes))
        mark = {
            "fleet": fleet,
            "device": device,
            "round": round_number,
            "parent": bundle_digest,
            "depth": depth,
        }
        table = pa.table(columns, metadata=marked_metadata(mark, pandas=True))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        path = self.path_of(device=device, round_number=round_number, message_id=message_id)
        write_durably(self._base / path, buffer.getvalue())
        return path

    def read(self, records: Iterable[MessageRecord], *, names: Sequence[str]) -> PoolRows:
        """Read the batches that the catalogue names, in the order given.

        Raises
        ------
        AggregatorError
            If a catalogued file is missing or has other columns.
        """
        records = list(records)
        devices = tuple(sorted({record.device for record in records}))
        number = {device: index for index, device in enumerate(devices)}
        columns = [f"code_{name}" for name in names]
        parts: list[npt.NDArray[np.int32]] = []
        for record in records:
            try:
                table = pq.ParquetFile(self._base / record.path).read(columns=columns)
                part = [table.column(c).to_numpy().astype(np.int32) for c in columns]
            except (OSError, KeyError, pa.ArrowException) as error:
                raise AggregatorError(
                    f"{record.path} is in the catalogue but cannot be read: {error}; "
                    "restore the data directory from its backup"
                ) from error
            parts.append(np.stack(part, axis=1))
        sizes = [len(part) for part in parts]
        lots = [
            np.random.default_rng(int(r.id, 16)).random(size, dtype=np.float32)
            for r, size in zip(records, sizes, strict=True)
        ]
        codes = np.concatenate(parts) if parts else np.empty((0, len(names)), np.int32)
        return PoolRows(
            codes=np.ascontiguousarray(codes, dtype=np.int32),
            device=np.repeat([number[r.device] for r in records], sizes).astype(np.int32),
            devices=devices,
            round=np.repeat([r.round for r in records], sizes).astype(np.int32),
            lot=np.concatenate(lots) if lots else np.empty(0, np.float32),
        )

    def table(self, records: Iterable[MessageRecord]) -> ibis.expr.types.Table:
        """Return the catalogued batches as an Ibis table on DuckDB.

        Its columns are `round`, `device`, `parent_bundle`, `depth` and one `code_<column>` per
        column; nothing is read before the expression is executed.

        Raises
        ------
        AggregatorError
            If there are no batches yet.
        """
        import ibis  # noqa: PLC0415 - a second to import, and only queries need it

        paths = [str(self._base / record.path) for record in records]
        if not paths:
            raise AggregatorError("the pool is empty: no batch has been accepted yet")
        # One thread: the pool is small and the aggregator shares its cores with training.
        connection: Any = ibis.duckdb.connect(threads=1)
        return connection.read_parquet(
            paths, table_name="pool", hive_partitioning=True, union_by_name=True
        )
