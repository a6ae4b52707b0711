"""A table in memory: one NumPy array per column, typed by a schema."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import MissingExtraError, SchemaError
from edge_runtime.schema.coded import Coded, Columns
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.watermark import WATERMARK, marked_metadata

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["Table"]

_DTYPES: dict[str, Any] = {
    "number": np.float64,
    "integer": np.int64,
    "timestamp": np.int64,
    "boolean": np.int8,
    "category": object,
}


class Table:
    """Rows as typed columns.

    Parameters
    ----------
    schema : Schema
        Declares names, kinds and order.
    columns : mapping of str to ndarray or Coded
        [rows] each: number float64 (NaN missing), integer int64, timestamp int64 (microseconds
        since 1970-01-01 UTC), boolean int8 (0, 1, -1 missing), category object (str or None), or
        `Coded`, which becomes objects when they are asked for.
    missing : mapping of str to bool ndarray, optional
        [rows] each. Needed for integers and timestamps with missing values only: the other kinds
        carry the mark themselves.
    file : str
        Where the rows came from, for error messages.
    first_row : int
        Number of the first row in that file, counted from 1.
    synthetic : mapping, optional
        Marks the rows as synthetic and says where they are from; see `watermark`. Every form that
        has room for the mark carries it.

    Raises
    ------
    SchemaError
        Columns, dtypes or lengths do not fit the schema.
    """

    def __init__(
        self,
        *,
        schema: Schema,
        columns: Mapping[str, NDArray[Any] | Coded],
        missing: Mapping[str, NDArray[np.bool_]] | None = None,
        file: str = "<table>",
        first_row: int = 1,
        synthetic: Mapping[str, Any] | None = None,
    ) -> None:
        if set(columns) != set(schema.names):
            raise SchemaError(
                f"columns {sorted(columns)} are not those of schema {schema.name!r}: "
                f"{sorted(schema.names)}"
            )
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise SchemaError(f"columns of different lengths: {lengths}")
        self.schema = schema
        self.columns = Columns({name: columns[name] for name in schema.names})
        self.missing: dict[str, NDArray[np.bool_]] = {}
        self.file = file
        self.first_row = first_row
        self.synthetic = None if synthetic is None else dict(synthetic)
        for column in schema.columns:
            values = columns[column.name]
            given = None if missing is None else missing.get(column.name)
            if isinstance(values, Coded) and column.kind == "category":
                self.missing[column.name] = values.missing if given is None else given
                continue
            if isinstance(values, Coded):
                raise SchemaError(f"column {column.name!r} ({column.kind}) is no category")
            if values.dtype != _DTYPES[column.kind] or values.ndim != 1:
                raise SchemaError(
                    f"column {column.name!r} ({column.kind}) is {values.dtype} with "
                    f"{values.ndim} axes, expected one axis of {np.dtype(_DTYPES[column.kind])}"
                )
            self.missing[column.name] = _missing(column.kind, values) if given is None else given

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.columns[self.schema.names[0]])

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __repr__(self) -> str:
        return f"<Table {self.schema.name!r}: {self.rows} rows x {len(self.columns)} columns>"

    def take(self, rows: NDArray[Any] | slice) -> Table:
        """Return the rows at the given positions.

        Parameters
        ----------
        rows : int or bool ndarray, or slice
            As NumPy indexes an axis.

        Returns
        -------
        Table
        """
        return Table(
            schema=self.schema,
            columns={name: self.columns.held(name)[rows] for name in self.columns},
            missing={name: mask[rows] for name, mask in self.missing.items()},
            file=self.file,
            first_row=self.first_row,
            synthetic=self.synthetic,
        )

    def marked(self, facts: Mapping[str, Any]) -> Table:
        """Return the same rows, marked as synthetic.

        Parameters
        ----------
        facts : mapping
            Where they are from, as plain values.

        Returns
        -------
        Table
            Shares its arrays with this one.
        """
        made = copy.copy(self)
        made.synthetic = dict(facts)
        return made

    @classmethod
    def concat(cls, tables: Sequence[Table]) -> Table:
        """One table of several, in order.

        Parameters
        ----------
        tables : sequence of Table
            At least one, all of the same schema.

        Returns
        -------
        Table
            Synthetic as soon as one of them is: such a table is not real rows any more.

        Raises
        ------
        SchemaError
            Nothing to join, or different schemas.
        """
        if not tables:
            raise SchemaError("no tables to join")
        schema = tables[0].schema
        if any(table.schema != schema for table in tables):
            raise SchemaError("tables of different schemas cannot be joined")
        if len(tables) == 1:
            return tables[0]
        return cls(
            schema=schema,
            columns={n: _joined([t.columns for t in tables], n) for n in schema.names},
            missing={n: np.concatenate([t.missing[n] for t in tables]) for n in schema.names},
            file=tables[0].file,
            first_row=tables[0].first_row,
            synthetic=next((t.synthetic for t in tables if t.synthetic is not None), None),
        )

    def to_arrow(self) -> pyarrow.Table:
        """Return the table in Arrow, nulls where values are missing.

        Returns
        -------
        pyarrow.Table
            number float64, integer int64, boolean bool, category string,
            timestamp microseconds in UTC; synthetic rows with their mark in the metadata.

        Raises
        ------
        MissingExtraError
            pyarrow is not installed.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 - not part of the base install
        except ImportError as error:
            raise MissingExtraError("pyarrow", "aggregator") from error

        types = {
            "number": pa.float64(),
            "integer": pa.int64(),
            "boolean": pa.bool_(),
            "category": pa.string(),
            "timestamp": pa.timestamp("us", tz="UTC"),
        }
        arrays = []
        for column in self.schema.columns:
            missing = self.missing[column.name]
            mask = missing if missing.any() else None
            held = self.columns.held(column.name)
            if isinstance(held, Coded):
                codes = pa.array(held.codes, mask=mask)
                labels = pa.array(held.labels, pa.string())
                arrays.append(labels.take(codes))
                continue
            values = held
            if column.kind == "boolean":
                values = values == 1
            arrays.append(pa.array(values, type=types[column.kind], mask=mask))
        mark = None if self.synthetic is None else marked_metadata(self.synthetic, pandas=True)
        return pa.table(arrays, names=list(self.schema.names), metadata=mark)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the table in pandas.

        Returns
        -------
        pandas.DataFrame
            number float64; integer int64; boolean bool; category object (str or None);
            timestamp datetime64[us, UTC]. As pandas does by itself, integers that may be missing
            are float64 with NaN and booleans that may be missing object with None. Synthetic
            rows have their mark in `attrs`.

        Raises
        ------
        MissingExtraError
            pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - not part of the base install
        except ImportError as error:
            raise MissingExtraError("pandas", "aggregator") from error

        frame: dict[str, Any] = {}
        for column in self.schema.columns:
            values, missing = self.columns[column.name], self.missing[column.name]
            if column.kind == "integer" and column.nullable:
                frame[column.name] = np.where(missing, np.nan, values)
            elif column.kind == "boolean":
                present: NDArray[Any] = values == 1
                if column.nullable:
                    present = present.astype(object)
                    present[missing] = None
                frame[column.name] = present
            elif column.kind == "timestamp":
                moments = values.astype("datetime64[us]")
                moments[missing] = np.datetime64("NaT")
                frame[column.name] = pd.Series(moments).dt.tz_localize("UTC")
            elif column.kind == "category":
                frame[column.name] = pd.Series(values, dtype=object)
            else:
                frame[column.name] = values
        made = pd.DataFrame(frame)
        if self.synthetic is not None:
            made.attrs[WATERMARK] = dict(self.synthetic)
        return made


def _joined(parts: Sequence[Columns], name: str) -> NDArray[Any] | Coded:
    held = [part.held(name) for part in parts]
    coded = [part for part in held if isinstance(part, Coded)]
    if len(coded) == len(held) and len({part.labels for part in coded}) == 1:
        return Coded(np.concatenate([part.codes for part in coded]), coded[0].labels)
    return np.concatenate([part[name] for part in parts])


def _missing(kind: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    if kind == "number":
        missing: NDArray[np.bool_] = np.isnan(values)
        return missing
    if kind == "boolean":
        return np.asarray(values < 0, np.bool_)
    if kind == "category":
        return np.fromiter((value is None for value in values), np.bool_, len(values))
    return np.zeros(len(values), np.bool_)
