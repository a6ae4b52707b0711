"""Writing tables, at once or block by block."""

from __future__ import annotations

import contextlib
import csv
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from edge_runtime.errors import DataError, MissingExtraError
from edge_runtime.schema.columns import Column, format_timestamp
from edge_runtime.schema.table import Table

__all__ = ["TableWriter", "listed", "write_table"]


class TableWriter:
    """Writes blocks of rows into one .csv or .parquet file, so that memory stays bounded.

    A context manager: the file appears under its name when the block ends, and not at all when it
    ends in an error. Missing values become empty fields or nulls.

    Parameters
    ----------
    target : str, Path or text file
        The ending of a path chooses the format, an existing file is replaced; an open text file
        gets CSV and stays open.

    Raises
    ------
    DataError
        The ending is neither, or the file cannot be written.
    MissingExtraError
        Parquet without pyarrow.
    """

    def __init__(self, target: str | Path | TextIO) -> None:
        self.rows = 0
        self._started = False
        self._parquet: Any = None
        self._pq: Any = None
        self._text: TextIO | None = None
        self._path = Path(target) if isinstance(target, str | Path) else None
        if self._path is not None:
            self._partial = self._path.with_name(f".{self._path.name}.partial")
        if self._path is None:
            self._out: Any = target
        elif self._path.suffix == ".parquet":
            try:
                import pyarrow.parquet as pq  # noqa: PLC0415 - not part of the base install
            except ImportError as error:
                raise MissingExtraError("pyarrow", "aggregator") from error
            self._pq = pq
        elif self._path.suffix == ".csv":
            try:
                self._text = self._partial.open("w", encoding="utf-8", newline="")
            except OSError as error:
                raise self._unwritable(error) from error
            self._out = self._text
        else:
            raise DataError(
                "is of no known kind", file=str(target), hint="expected .csv or .parquet"
            )

    def _unwritable(self, error: OSError) -> DataError:
        # pyarrow puts a sentence with the path where the system's own few words belong
        reason = os.strerror(error.errno) if error.errno else str(error)
        return DataError(f"cannot be written ({reason})", file=str(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if self._text is not None:
            self._text.close()
        if self._path is None:
            return
        if kind is None and self._started:
            self._partial.replace(self._path)
        else:
            # The error under way says more than that there is nothing to remove.
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def write(self, table: Table) -> None:
        """Append the rows of a table; all tables of one file have the same schema.

        Parameters
        ----------
        table : Table
            The first one decides the header.

        Raises
        ------
        DataError
            The file cannot be written.
        """
        try:
            if self._pq is not None:
                arrow = table.to_arrow()
                if self._parquet is None:
                    self._parquet = self._pq.ParquetWriter(
                        self._partial, arrow.schema, compression="zstd"
                    )
                self._parquet.write_table(arrow)
            else:
                writer = csv.writer(self._out)
                if not self._started:
                    writer.writerow(table.schema.names)
                columns = [listed(table, name, missing="") for name in table.schema.names]
                writer.writerows(zip(*columns, strict=True))
        except BrokenPipeError:
            raise  # whoever reads has seen enough; that is no damage
        except OSError as error:
            raise self._unwritable(error) from error
        self._started = True
        self.rows += table.rows


def write_table(table: Table, path: str | Path) -> None:
    """Write a table as .csv or .parquet; missing values become empty fields or nulls.

    Parameters
    ----------
    table : Table
        The rows.
    path : str or Path
        Its ending chooses the format; an existing file is replaced.

    Raises
    ------
    DataError
        The ending is neither, or the file cannot be written.
    MissingExtraError
        Parquet without pyarrow.
    """
    with TableWriter(path) as writer:
        writer.write(table)


def listed(table: Table, name: str, missing: str | None = None) -> list[object]:
    """Return a column as plain values, each as CSV shows it, with `missing` where none is."""
    column = table.schema.columns[table.schema.index(name)]
    return [
        missing if gone else _text(column, value)
        for value, gone in zip(
            table.columns[name].tolist(), table.missing[name].tolist(), strict=True
        )
    ]


def _text(column: Column, value: Any) -> object:
    """Return a typed value as CSV shows it; numbers as they are: that writes them exactly."""
    if column.kind == "boolean":
        return "true" if value else "false"
    if column.kind == "timestamp":
        return format_timestamp(value)
    if column.kind == "number" and column.decimals is not None:
        return f"{value:.{column.decimals}f}"
    return value
