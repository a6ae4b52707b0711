"""Raw chunks of rows from CSV, Parquet, data frames and anything that speaks Arrow.

Nothing here knows a schema: a chunk is one list or array per column as the source holds it.
CSV needs the standard library only and holds one chunk in memory at a time.
"""

from __future__ import annotations

import csv
import io
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError, MissingExtraError
from edge_runtime.schema.columns import repeats
from edge_runtime.schema.watermark import marked_of

__all__ = ["CHUNK_ROWS", "ArrowStream", "RawChunk", "Source", "raw_chunks", "source_name"]

#: rows held in memory at a time while a file is read
CHUNK_ROWS = 2048
#: Characters of so many rows: a compressed file of a megabyte may be one line of a gigabyte.
_CHUNK_CHARS = 64 << 20


@runtime_checkable
class ArrowStream(Protocol):
    """Anything with the Arrow PyCapsule stream interface: pyarrow, polars, pandas, duckdb."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Export the data as an Arrow C stream."""
        ...


Source = str | Path | TextIO | ArrowStream | Mapping[str, Sequence[object]]
Raw = Sequence[object] | NDArray[Any]


class RawChunk(NamedTuple):
    """Consecutive rows of a source.

    Attributes
    ----------
    columns : dict of str to sequence or ndarray
        [rows] each, as the source holds them.
    first_row : int
        Number of the first row, counted from 1.
    synthetic : dict or None
        What the source's mark of synthetic rows says, see `watermark`.
    """

    columns: dict[str, Raw]
    first_row: int
    synthetic: dict[str, Any] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))


def source_name(source: Source) -> str:
    """Return what error messages call a source: the file's path, or the type of the object."""
    return str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"


def raw_chunks(
    source: Source, *, names: Sequence[str] | None, file: str, first_row: int = 1
) -> Iterator[RawChunk]:
    """Yield the rows of a source, chunk by chunk.

    Parameters
    ----------
    source : path, open text file, frame or mapping
        A path ends in .csv, .csv.gz or .parquet; an open text file holds CSV with a header line.
    names : sequence of str, optional
        The columns wanted; all by default. Others are skipped.
    file : str
        Name of the source in error messages.
    first_row : int
        Number of the first row.

    Yields
    ------
    RawChunk
        At least one, empty when the source has a header but no rows.

    Raises
    ------
    DataError
        The source cannot be read, lacks a column, or a record has a wrong number of fields.
    MissingExtraError
        Parquet without pyarrow.
    """
    if isinstance(source, str | Path):
        return _from_path(Path(source), names, file, first_row)
    if isinstance(source, Mapping):
        return iter([_from_mapping(source, names, file, first_row)])
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        return iter([_from_pandas(source, names, file, first_row)])
    if isinstance(source, ArrowStream):
        return _from_arrow(source, names, file, first_row)
    if isinstance(source, io.TextIOBase) or hasattr(source, "readline"):
        return _from_csv(source, names, file, first_row)
    raise DataError(
        "cannot be read as a table",
        file=file,
        hint="give a path (.csv, .csv.gz, .parquet), a frame, or an open CSV file",
    )


def _from_path(
    path: Path, names: Sequence[str] | None, file: str, first_row: int
) -> Iterator[RawChunk]:
    kind = "".join(path.suffixes[-2:]).lower()
    try:
        if kind.endswith(".parquet"):
            yield from _from_parquet(path, names, file, first_row)
        elif kind.endswith(".csv"):
            with path.open(encoding="utf-8-sig", newline="") as text:
                yield from _from_csv(text, names, file, first_row)
        elif kind.endswith(".csv.gz"):
            import gzip  # noqa: PLC0415 - a device reads plain files

            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as text:
                yield from _from_csv(text, names, file, first_row)
        else:
            raise DataError(
                "is of no known kind", file=file, hint="expected .csv, .csv.gz or .parquet"
            )
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", file=file) from error
    except (EOFError, zlib.error) as error:
        raise DataError(
            "is a damaged or incomplete .gz file", file=file, hint="copy it again"
        ) from error


class _Lines:
    """The lines of a text, as long as those since `start` have a bounded size."""

    def __init__(self, text: TextIO, file: str) -> None:
        self._text, self._file, self._left = text, file, _CHUNK_CHARS

    def start(self) -> None:
        """Begin another chunk of rows."""
        self._left = _CHUNK_CHARS

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(self._left + 1):
            self._left -= len(line)
            if self._left < 0:
                raise DataError(
                    f"has more than {_CHUNK_CHARS} characters in {CHUNK_ROWS} rows or fewer",
                    file=self._file,
                    hint="is it a table?",
                )
            yield line


def _from_csv(
    text: TextIO, names: Sequence[str] | None, file: str, first_row: int
) -> Iterator[RawChunk]:
    row = first_row
    # strict: an unclosed quote is an error, not one field that swallows the rest of the file
    lines = _Lines(text, file)
    records = csv.reader(lines, strict=True)
    try:
        header = next((record for record in records if record), None)
        if header is None:
            raise DataError("is empty", file=file, hint="a header line with names comes first")
        wanted = header if names is None else list(names)
        positions = _positions(header, wanted, file)
        while batch := list(itertools.islice(records, CHUNK_ROWS)):
            if set(map(len, batch)) != {len(header)}:
                batch = _regular(batch, len(header), file, row)
            fields = list(zip(*batch, strict=True)) or [()] * len(header)
            yield RawChunk(
                {name: fields[at] for name, at in zip(wanted, positions, strict=True)}, row
            )
            row += len(batch)
            lines.start()
    except csv.Error as error:
        raise DataError(
            "is not well-formed CSV", file=file, detail=f" (line {records.line_num}: {error})"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", file=file, hint="convert it first") from error
    if row == first_row:
        yield RawChunk({name: [] for name in wanted}, row)


def _regular(batch: list[list[str]], fields: int, file: str, row: int) -> list[list[str]]:
    """Return the records without blank lines, each checked for its number of fields."""
    batch = [record for record in batch if record]
    for index, record in enumerate(batch):
        if len(record) != fields:
            raise DataError(
                "has not as many fields as the header",
                file=file,
                row=row + index,
                detail=f" ({len(record)}, not {fields})",
                hint="quote texts that hold commas",
            )
    return batch


def _positions(header: Sequence[str], wanted: Sequence[str], file: str) -> list[int]:
    twice = repeats(header)
    if twice:
        raise DataError(
            "has two columns of one name",
            file=file,
            detail=f": columns {twice} twice",
            hint="rename them; if its first line is a row, put a line with names before it",
        )
    absent = [name for name in wanted if name not in header]
    if absent:
        raise DataError(
            f"has no column {absent[0]!r}",
            file=file,
            # Where the header is missing, these are the values of a row.
            detail=f"; it has {', '.join(map(str, header))}",
            hint="the first line must name every column of the schema",
        )
    return [list(header).index(name) for name in wanted]


def _from_mapping(
    source: Mapping[str, Sequence[object]], names: Sequence[str] | None, file: str, first_row: int
) -> RawChunk:
    wanted = list(source) if names is None else list(names)
    _positions(list(source), wanted, file)
    if len({len(source[name]) for name in wanted}) > 1:
        raise DataError("has columns of different lengths", file=file)
    return RawChunk({name: source[name] for name in wanted}, first_row)


def _from_pandas(frame: Any, names: Sequence[str] | None, file: str, first_row: int) -> RawChunk:
    header = list(frame.columns)
    wanted = header if names is None else list(names)
    _positions(header, wanted, file)
    columns: dict[str, Raw] = {}
    for name in wanted:
        series = frame[name]
        kind = getattr(series.dtype, "kind", "O")
        if kind in "iuf":
            columns[str(name)] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        elif kind == "M":
            columns[str(name)] = series.to_numpy(dtype="datetime64[us]")
        elif isinstance(series.dtype, np.dtype) and kind == "b":
            columns[str(name)] = series.to_numpy()
        else:
            columns[str(name)] = series.astype(object).tolist()
    return RawChunk(columns, first_row, marked_of(getattr(frame, "attrs", None)))


def _from_parquet(
    path: Path, names: Sequence[str] | None, file: str, first_row: int
) -> Iterator[RawChunk]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - not part of the base install
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("pyarrow", "aggregator") from error
    try:
        with pq.ParquetFile(path) as parquet:
            header = parquet.schema_arrow.names
            mark = marked_of(parquet.schema_arrow.metadata)
            wanted = header if names is None else list(names)
            _positions(header, wanted, file)
            row = first_row
            for batch in parquet.iter_batches(batch_size=CHUNK_ROWS * 32, columns=wanted):
                yield _from_record_batch(batch, wanted, row, mark)
                row += batch.num_rows
            if row == first_row:
                yield RawChunk({name: [] for name in wanted}, first_row, mark)
    except pa.ArrowException as error:
        raise DataError(f"is not a readable Parquet file ({error})", file=file) from error


def _from_arrow(
    source: ArrowStream, names: Sequence[str] | None, file: str, first_row: int
) -> Iterator[RawChunk]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - faster than nanoarrow, where it is installed
    except ImportError:
        yield from _from_nanoarrow(source, names, file, first_row)
        return
    with pa.RecordBatchReader.from_stream(source) as reader:
        header = reader.schema.names
        mark = marked_of(reader.schema.metadata)
        wanted = header if names is None else list(names)
        _positions(header, wanted, file)
        row = first_row
        for batch in reader:
            yield _from_record_batch(batch, wanted, row, mark)
            row += batch.num_rows
        if row == first_row:
            yield RawChunk({name: [] for name in wanted}, first_row, mark)


def _from_record_batch(
    batch: Any, wanted: Sequence[str], row: int, mark: dict[str, Any] | None
) -> RawChunk:
    return RawChunk({name: _arrow_column(batch.column(name)) for name in wanted}, row, mark)


def _arrow_column(array: Any) -> Raw:
    import pyarrow as pa  # noqa: PLC0415 - only reached with pyarrow at hand

    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        # Unsafe: 64-bit integers beyond 2^53 are rounded here and refused by their column later.
        values: NDArray[Any] = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return values
    if (pa.types.is_boolean(kind) and not array.null_count) or pa.types.is_timestamp(kind):
        converted: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return converted
    listed: list[object] = array.to_pylist()
    return listed


def _from_nanoarrow(
    source: ArrowStream, names: Sequence[str] | None, file: str, first_row: int
) -> Iterator[RawChunk]:
    import nanoarrow as na  # noqa: PLC0415 - only needed for this kind of source

    stream = na.ArrayStream(source)
    mark = marked_of(stream.schema.metadata)
    header = [field.name for field in stream.schema.fields]
    wanted = header if names is None else list(names)
    positions = _positions(header, wanted, file)
    row = first_row
    for array in stream:
        children = list(array.iter_children())
        columns: dict[str, Raw] = {
            name: list(children[position].iter_py())
            for name, position in zip(wanted, positions, strict=True)
        }
        yield RawChunk(columns, row, mark)
        row += len(array)
    if row == first_row:
        yield RawChunk({name: [] for name in wanted}, first_row, mark)
