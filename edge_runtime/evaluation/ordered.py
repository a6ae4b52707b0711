"""Ordered rows to be compared: which series they are from, and where on the grid they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.frames import Frame
from edge_runtime.schema import Column, Schema, Table, grid_slots, label_codes, read_table
from edge_runtime.schema.sequence import repeated
from edge_runtime.schema.sources import raw_chunks, source_name

__all__ = ["Ordered", "is_ordered"]

I64 = npt.NDArray[np.int64]

#: what series and steps are called where synthetic rows lack the declared columns: the names that
#: releases and `sample_series` give them
_SERIES, _STEPS = ("window", "series"), ("step",)
_MOST = 2**53 - 1


def is_ordered(schema: Schema) -> bool:
    """Whether a schema is one of ordered rows; their windows are compared like any rows."""
    return schema.sequence is not None and not schema.sequence.columns


class Ordered(NamedTuple):
    """Rows sorted by series and place.

    `frame` has the columns that are learnt, `series` int64 [rows] the number of the series, `slot`
    int64 [rows] the place on the grid, or in the series where there is no grid.
    """

    frame: Frame
    series: I64
    slot: I64

    @classmethod
    def of(cls, source: Any, schema: Schema, *, synthetic: bool = False) -> Ordered:
        """Read rows of a schema that declares a sequence.

        Parameters
        ----------
        source : path, frame or Table
            Synthetic rows may have columns `window` or `series`, and `step`, in place of the
            declared entity and order.

        Raises
        ------
        DataError, EvaluationError
            The rows do not fit the schema.
        """
        sequence = schema.sequence
        assert sequence is not None, "the caller has seen to it"
        there = _names(source)
        entity = _apart(schema, sequence.entity, there, _SERIES if synthetic else ())
        order = _apart(schema, sequence.order, there, _STEPS if synthetic else ())
        changing = {column.name for column in repeated(schema.columns, sequence)}
        # Gaps of series are missing values, whatever the columns say of single rows.
        learnt = [
            msgspec.structs.replace(column, nullable=column.nullable or column.name in changing)
            for column in schema.columns
            if column.name not in (sequence.entity, sequence.order)
        ]
        apart = [column for column in (entity, order) if column is not None]
        table = read_table(
            source,
            Schema.ordered(name=schema.name, columns=[*learnt, *apart]),
            synthetic=synthetic,
        )
        series = np.zeros(table.rows, np.int64) if entity is None else _numbered(table, entity)
        if order is None:
            slot = _ranks(series, np.arange(table.rows))
        elif order.name != sequence.order:
            slot = table.columns[order.name].astype(np.int64)
        elif sequence.every is None:
            slot = _ranks(series, table.columns[order.name])
        else:
            slot = grid_slots(table, sequence)
        plain = Schema.ordered(name=schema.name, columns=learnt)
        frame = Frame.of(
            Table(
                schema=plain,
                columns={name: table.columns.held(name) for name in plain.names},
                missing={name: table.missing[name] for name in plain.names},
                file=table.file,
                synthetic=table.synthetic,
            ),
            plain,
            synthetic=synthetic,
        )
        rows = np.lexsort((slot, series))
        return cls(frame.take(rows), series[rows], slot[rows])

    def take(self, rows: npt.NDArray[Any]) -> Ordered:
        """Return the rows with these indices (or where this mask is set)."""
        return Ordered(self.frame.take(rows), self.series[rows], self.slot[rows])

    def last_part(self, share: float) -> npt.NDArray[np.bool_]:
        """Say which rows are in the last part of their series, bool [rows]."""
        place = _ranks(self.series, self.slot)
        length = np.bincount(self.series, minlength=1)[self.series]
        return np.asarray(place >= (1.0 - share) * length)

    def lengths(self) -> I64:
        """Return the rows of each series, int64 [series]."""
        return np.bincount(self.series).astype(np.int64)


def _names(source: Any) -> tuple[str, ...]:
    if isinstance(source, Table):
        return source.schema.names
    if isinstance(source, str | Path) and str(source).endswith(".parquet"):
        import pyarrow.parquet as pq  # noqa: PLC0415 - part of the aggregator extra

        return tuple(pq.read_schema(source).names)
    names = tuple(next(iter(raw_chunks(source, names=None, file=source_name(source)))).columns)
    if hasattr(source, "seek"):
        source.seek(0)  # an open file is read again, for its rows
    return names


def _apart(
    schema: Schema, declared: str, there: tuple[str, ...], others: tuple[str, ...]
) -> Column | None:
    """Return the declared column, or one of others that is there in its place."""
    if declared in there:
        return schema.columns[schema.index(declared)]
    name = next((other for other in others if other in there), None)
    if name is not None:
        return Column(name=name, kind="integer", low=0, high=_MOST)
    if not declared:
        return None
    raise EvaluationError(
        f"column {declared!r} of schema {schema.name!r} is not in the table; it has: "
        f"{', '.join(there)}"
    )


def _numbered(table: Table, column: Column) -> I64:
    values = table.columns[column.name] if column.numeric else label_codes(column, table)[0]
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _ranks(series: I64, key: npt.NDArray[Any]) -> I64:
    """Place of each row within its series in the order of `key`, int64 [rows]."""
    rows = np.lexsort((key, series))
    first = np.searchsorted(series[rows], series[rows])
    ranks = np.empty(len(rows), np.int64)
    ranks[rows] = np.arange(len(rows)) - first
    return ranks
