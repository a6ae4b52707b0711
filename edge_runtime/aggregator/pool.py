"""The pool: every accepted row of synthetic codes, accumulated in partitioned Parquet.

`pool/round=<r>/<id>.parquet` holds the batches that were committed together, under the id of the
first: a file and its sync cost more than the rows of a batch do. Its code columns are called
`code_<column>`, so that no column of a table can collide with a partition's name. Every row names
where it is from: its message, device, parent bundle and generation depth by columns of their own
(constant within a batch, so they take a few bytes), and the file its fleet and round in its mark
of synthetic rows, for a reader who has the file alone. Rows count only when the catalogue says of
their message that it was accepted and that they are in this file. A file that a crash left behind
is swept away, and its batches come again when their devices send them again.

Files of earlier releases hold one batch each, `pool/round=<r>/device=<d>/<id>.parquet`, and are
read as they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import AggregatorError
from edge_runtime.schema import marked_metadata

if TYPE_CHECKING:
    import ibis.expr.types

__all__ = ["DEPTH", "DEVICE", "MESSAGE", "PARENT", "Pool", "PoolBatch", "PoolRows", "path_of"]

#: columns of every file of the pool, beside the codes
MESSAGE, DEVICE, PARENT, DEPTH = "message", "device", "parent_bundle", "depth"
_CODE = "code_"
#: values that the writer of a column takes at once
_WRITTEN_TOGETHER = 1 << 16


class PoolBatch(NamedTuple):
    """A batch on its way into the pool.

    `parent` is the digest of the bundle that its device started from, `depth` counts the
    generations of synthetic rows behind it, its own included; `codes` is int32 [rows, D].
    """

    message_id: str
    device: str
    round: int
    parent: str
    depth: int
    codes: npt.NDArray[np.int32]


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

    def write(
        self, batches: Sequence[PoolBatch], *, fleet: str, names: Sequence[str]
    ) -> dict[str, str]:
        """Write batches, synced: one file per round. The same batches again replace themselves.

        Parameters
        ----------
        batches : sequence of PoolBatch
            Not in the pool yet.
        fleet : str
            Whose rows they are.
        names : sequence of str
            Column names, D of them.

        Returns
        -------
        dict of str to str
            Paths relative to the data directory, by message id.
        """
        rounds: dict[int, list[PoolBatch]] = {}
        for batch in batches:
            rounds.setdefault(batch.round, []).append(batch)
        paths = {}
        for number, together in rounds.items():
            path = path_of(together[0])
            table = _table(together, names, mark={"fleet": fleet, "round": number})
            write_durably(self._base / path, _parquet(table))
            paths.update(dict.fromkeys((batch.message_id for batch in together), path))
        return paths

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
        found = {record.id: codes for record, codes in self.batches(records, names=names)}
        parts = [found[record.id] for record in records]
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

    def batches(
        self, records: Iterable[MessageRecord], *, names: Sequence[str]
    ) -> Iterator[tuple[MessageRecord, npt.NDArray[np.int32]]]:
        """Yield batches with their codes int32 [rows, D], file by file; as `read` otherwise."""
        files: dict[str, list[MessageRecord]] = {}
        for record in records:
            files.setdefault(record.path, []).append(record)
        for path, together in files.items():
            try:
                codes, places = _read(self._base / path, [f"code_{name}" for name in names])
                rows = [places[r.id] if places and r.rows else slice(r.rows) for r in together]
            except (OSError, KeyError, pa.ArrowException) as error:
                raise AggregatorError(
                    f"{path} is in the catalogue but cannot be read: {error}; "
                    "restore the data directory from its backup"
                ) from error
            yield from ((record, codes[own]) for record, own in zip(together, rows, strict=True))

    def extract(self, record: MessageRecord) -> bytes:
        """Return one batch as a Parquet file of its own."""
        data = (self._base / record.path).read_bytes()
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        if MESSAGE not in table.column_names:
            return data
        return _parquet(table.filter(pc.equal(table.column(MESSAGE), record.id)))

    def table(self, records: Iterable[MessageRecord]) -> ibis.expr.types.Table:
        """Return the catalogued batches as an Ibis table on DuckDB.

        Its columns are `round`, `message`, `device`, `parent_bundle`, `depth` and one
        `code_<column>` per column; nothing is read before the expression is executed.

        Raises
        ------
        AggregatorError
            If there are no batches yet.
        """
        import ibis  # noqa: PLC0415 - a second to import, and only queries need it

        records = list(records)
        if not records:
            raise AggregatorError("the pool is empty: no batch has been accepted yet")
        # One thread: the pool is small and the aggregator shares its cores with training.
        connection: Any = ibis.duckdb.connect(threads=1)
        rows = connection.read_parquet(
            sorted({str(self._base / record.path) for record in records}),
            table_name="pool",
            hive_partitioning=True,
            union_by_name=True,
            filename=True,
        )
        named = rows.filename.re_extract(r"([^/]+)\.parquet$", 1)
        # A file of an earlier release is one batch, and has its id for a name only.
        own = rows[MESSAGE].coalesce(named) if MESSAGE in rows.columns else named
        counted = ibis.memtable(pa.table({MESSAGE: [record.id for record in records]}))
        return rows.mutate(**{MESSAGE: own}).drop("filename").semi_join(counted, MESSAGE)


def path_of(first: PoolBatch) -> str:
    """Return the path, relative to the data directory, of the file that begins with a batch."""
    return f"pool/round={first.round}/{first.message_id}.parquet"


def _table(batches: Sequence[PoolBatch], names: Sequence[str], mark: dict[str, Any]) -> pa.Table:
    sizes = [len(batch.codes) for batch in batches]
    most = max((int(batch.codes.max()) for batch in batches if batch.codes.size), default=0)
    codes = np.empty((len(names), sum(sizes)), np.uint8 if most < 256 else np.uint16)
    np.concatenate([batch.codes.T for batch in batches], axis=1, out=codes, casting="unsafe")

    def repeated(values: list[str]) -> pa.Array:
        # A dictionary with a value twice would be written out in full, value by value.
        places = {value: place for place, value in enumerate(dict.fromkeys(values))}
        which = np.array([places[value] for value in values], np.int32)
        return pa.DictionaryArray.from_arrays(np.repeat(which, sizes), pa.array([*places]))

    columns: dict[str, Any] = {
        _CODE + name: pa.array(column) for name, column in zip(names, codes, strict=True)
    }
    columns[MESSAGE] = repeated([batch.message_id for batch in batches])
    columns[DEVICE] = repeated([batch.device for batch in batches])
    columns[PARENT] = repeated([batch.parent for batch in batches])
    columns[DEPTH] = pa.array(np.repeat([batch.depth for batch in batches], sizes), pa.uint32())
    # Without nulls, which Parquet would have to note of every row that there is none.
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata=marked_metadata(mark, pandas=True))
    return pa.table(list(columns.values()), schema=schema)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    codes = [name for name in table.column_names if name.startswith(_CODE)]
    # Packed into as many bits as their differences take, codes need a third more room than from a
    # compressed dictionary, and half the time to write and to read. Nobody looks for rows by the
    # least or largest code of a file: statistics take a sixth of the time.
    pq.write_table(
        table,
        buffer,
        compression="none",
        use_dictionary=[name for name in table.column_names if name not in codes],
        column_encoding=dict.fromkeys(codes, "DELTA_BINARY_PACKED"),
        write_statistics=False,
        write_batch_size=_WRITTEN_TOGETHER,
    )
    return buffer.getvalue()


def _read(path: Path, columns: list[str]) -> tuple[npt.NDArray[np.int32], dict[str, slice]]:
    """Return a file's codes int32 [rows, D] and where each message's are; none: one's alone."""
    file = pq.ParquetFile(path)
    together = MESSAGE in file.schema_arrow.names
    table = file.read(columns=[*columns, MESSAGE] if together else columns)
    codes = np.empty((table.num_rows, len(columns)), np.int32)
    for d, name in enumerate(columns):
        codes[:, d] = table.column(name).to_numpy()
    places: dict[str, slice] = {}
    if together and len(codes):
        ids = table.column(MESSAGE).unify_dictionaries().combine_chunks()
        which = ids.indices.to_numpy()
        starts = np.flatnonzero(np.diff(which, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(which)], strict=True):
            places[ids.dictionary[int(which[start])].as_py()] = slice(start, end)
    return codes, places
