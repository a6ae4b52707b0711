"""Reading tables by a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.schema.holding import refuse_broken
from edge_runtime.schema.infer import infer_schema
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.sources import RawChunk, Source, raw_chunks, source_name
from edge_runtime.schema.table import Table
from edge_runtime.schema.values import MISSING_TOKENS, Place, typed_column
from edge_runtime.schema.watermark import refuse_synthetic
from edge_runtime.schema.writing import listed

__all__ = ["iter_tables", "read_open", "read_table"]


def read_table(
    source: Source | Table,
    schema: Schema | None = None,
    *,
    skip_rows: int = 0,
    max_rows: int | None = None,
    missing_tokens: tuple[str, ...] = MISSING_TOKENS,
    file: str | None = None,
    first_row: int = 1,
    synthetic: bool = False,
    constraints: bool = True,
) -> Table:
    """Read a table.

    Parameters
    ----------
    source : path, open text file, frame, mapping or Table
        A path ends in .csv, .csv.gz or .parquet; an open text file holds CSV with a header line;
        frames are pandas, polars, pyarrow and whatever has ``__arrow_c_stream__``.
    schema : Schema, optional
        Columns that it does not name are skipped. Inferred from the rows when not given.
    skip_rows : int
        Leave out that many rows at the start.
    max_rows : int, optional
        Read at most that many rows.
    missing_tokens : tuple of str
        Texts that mean missing.
    file : str, optional
        Name of the source in error messages.
    first_row : int
        Number of the source's first row, for error messages.
    synthetic : bool
        Whether rows marked as synthetic are welcome: by default rows are read as real ones.
    constraints : bool
        Whether real rows are held against the constraints of the schema.

    Returns
    -------
    Table

    Raises
    ------
    DataError
        The source cannot be read, lacks a column, has a value of a wrong type, or a missing value
        where none is allowed (names file, row, column and value); a row breaks a constraint of the
        schema; or the rows are marked as synthetic and not welcome. Where they are welcome,
        constraints are not asked for: rows of other generators are read to be judged.
    """
    if schema is None:
        schema = (
            source.schema
            if isinstance(source, Table)
            else infer_schema(source, synthetic=synthetic)[0]
        )
        if not isinstance(source, Table) and hasattr(source, "seek"):
            source.seek(0)  # an open file was read to its end to infer the schema
    tables = iter_tables(
        source,
        schema,
        skip_rows=skip_rows,
        max_rows=max_rows,
        missing_tokens=missing_tokens,
        file=file,
        first_row=first_row,
        synthetic=synthetic,
        constraints=constraints,
    )
    return Table.concat(list(tables))


def iter_tables(
    source: Source | Table,
    schema: Schema,
    *,
    skip_rows: int = 0,
    max_rows: int | None = None,
    missing_tokens: tuple[str, ...] = MISSING_TOKENS,
    file: str | None = None,
    first_row: int = 1,
    synthetic: bool = False,
    constraints: bool = True,
) -> Iterator[Table]:
    """Read a table in chunks of bounded size; parameters and errors as in `read_table`.

    Yields
    ------
    Table
        At least one, possibly empty.
    """
    name = file or (source.file if isinstance(source, Table) else source_name(source))
    start = first_row + skip_rows
    stop = None if max_rows is None else start + max_rows
    produced = False
    mark: dict[str, Any] | None = None
    if isinstance(source, Table):
        mark = source.synthetic
        source = {name: listed(source, name) for name in source.schema.names}
    for chunk in raw_chunks(source, names=schema.names, file=name, first_row=first_row):
        mark = chunk.synthetic if mark is None else mark
        if not synthetic:
            refuse_synthetic(mark, file=name)
        end = chunk.first_row + chunk.rows
        low, high = max(start, chunk.first_row), end if stop is None else min(stop, end)
        if high > low:
            produced = True
            part = slice(low - chunk.first_row, high - chunk.first_row)
            table = _typed(chunk._replace(synthetic=mark), part, schema, missing_tokens, name)
            if constraints and not synthetic:
                refuse_broken(table, schema)
            yield table
        if stop is not None and end >= stop:
            break
    if not produced:
        nothing = RawChunk({column: [] for column in schema.names}, start, mark)
        yield _typed(nothing, slice(0, 0), schema, missing_tokens, name)


def read_open(source: Source | Table, schema: Schema) -> Table:
    """Read rows of which any cell may be missing, whether or not its column is nullable.

    Parameters
    ----------
    source, schema
        As for `read_table`. Rows marked as synthetic are welcome.

    Returns
    -------
    Table
        Of `schema`, its `missing` as found.

    Raises
    ------
    DataError
        As `read_table`; a row whose known cells break a constraint as well.
    """
    columns = tuple(msgspec.structs.replace(column, nullable=True) for column in schema.columns)
    lenient = msgspec.structs.replace(schema, columns=columns)
    table = read_table(source, lenient, synthetic=True)
    refuse_broken(table, lenient)
    return Table(
        schema=schema,
        columns={name: table.columns.held(name) for name in schema.names},
        missing=table.missing,
        file=table.file,
        first_row=table.first_row,
    )


def _typed(
    chunk: RawChunk, part: slice, schema: Schema, tokens: tuple[str, ...], file: str
) -> Table:
    low = chunk.first_row + part.start
    columns: dict[str, NDArray[Any]] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    for column in schema.columns:
        columns[column.name], missing[column.name] = typed_column(
            column,
            chunk.columns[column.name][part],
            place=Place(file, low),
            missing_tokens=tokens,
        )
    return Table(
        schema=schema,
        columns=columns,
        missing=missing,
        file=file,
        first_row=low,
        synthetic=chunk.synthetic,
    )
