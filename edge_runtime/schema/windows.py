"""From rows in order to windows, and from codes of series back to rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CodecError, DataError, SchemaError
from edge_runtime.schema.census import Census, histograms_of, label_codes
from edge_runtime.schema.codec import Codec
from edge_runtime.schema.columns import Column
from edge_runtime.schema.numeric import NumericBins
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.sequence import (
    Sequence,
    step_columns,
    step_name,
    stepwise_constraints,
)
from edge_runtime.schema.table import Table

__all__ = [
    "Windows",
    "grid_slots",
    "long_codec",
    "merge_steps",
    "series_table",
    "shared_codec",
    "to_windows",
    "windows_of",
]

Index = NDArray[np.intp]

_SECOND = 1e6
#: places beyond are one: what a broken clock says must still fit an integer
_FARTHEST = 2.0**62


class Windows(NamedTuple):
    """Windows of rows.

    `table` has one row per window; `left_out` counts rows in no window: of series, or ends of
    series, that are shorter than one.
    """

    table: Table
    left_out: int


def to_windows(table: Table, *, overlapping: bool) -> Windows:
    """Cut rows into windows.

    Parameters
    ----------
    table : Table
        Of a schema that declares a sequence.
    overlapping : bool
        True: a window starts at every row. False: every row is in one window, which is what
        privacy per window is about.

    Raises
    ------
    DataError
        Two rows of a series have the same place in its order, or no series is long enough.
    """
    sequence = table.schema.sequence
    if sequence is None or sequence.columns:
        raise SchemaError(f"schema {table.schema.name!r} declares no sequence of rows")
    wide = table.schema.windowed()
    places = [
        _windows_of(rows, _slots(table, rows, sequence), sequence.steps, overlapping=overlapping)
        for rows in _series(table, sequence, by_place=not overlapping)
    ]
    place = np.concatenate([np.empty((0, sequence.steps), np.intp), *places])
    used = np.zeros(table.rows, np.bool_)
    used[place[place >= 0]] = True
    if not len(place):
        raise DataError(
            f"has no {sequence.steps} rows in a row",
            file=table.file,
            hint="declare fewer lags, or check entity, order and every of the schema's sequence",
        )
    columns: dict[str, Any] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    first = place[np.arange(len(place)), (place >= 0).argmax(axis=1)]
    for name in sequence.static:
        columns[name], missing[name] = table.columns[name][first], table.missing[name][first]
    for name in wide.sequence.columns if wide.sequence is not None else ():
        kind = table.schema.columns[table.schema.index(name)].kind
        for step in range(sequence.steps):
            at = place[:, step]
            gone = (at < 0) | table.missing[name][at]
            values = table.columns[name][at].copy()
            values[gone] = _ABSENT[kind]
            columns[step_name(name, step)], missing[step_name(name, step)] = values, gone
    made = Table(schema=wide, columns=columns, missing=missing, file=table.file)
    return Windows(made, int((~used).sum()))


_ABSENT: dict[str, object] = {
    "number": np.nan,
    "integer": 0,
    "timestamp": 0,
    "boolean": -1,
    "category": None,
}


def _series(table: Table, sequence: Sequence, *, by_place: bool) -> list[Index]:
    """Rows of each stretch without a change of entity or static columns, in order.

    By place on a grid, rows of other static values may lie between those of a stretch: it would
    be cut in two by one row more, and with it the window there.
    """
    static = [_numbers(table, name) for name in sequence.static]
    entity = [_numbers(table, sequence.entity)] if sequence.entity else []
    # np.lexsort sorts by the last key first, and keeps the order of equal rows.
    keys = [table.columns[sequence.order]] if sequence.order else [np.zeros(table.rows)]
    keys += [*static, *entity] if by_place and sequence.every is not None else entity
    rows = np.lexsort(keys)
    changes = np.zeros(max(0, len(rows) - 1), np.bool_)
    for numbers in (*static, *entity):
        changes |= np.diff(numbers[rows]) != 0
    return [part for part in np.split(rows, np.flatnonzero(changes) + 1) if len(part)]


def _numbers(table: Table, name: str) -> NDArray[np.int64]:
    """Return the values of a column as numbers, missing ones as -1, int64 [rows]."""
    column = table.schema.columns[table.schema.index(name)]
    values = table.columns[name] if column.numeric else label_codes(column, table)[0]
    _, numbers = np.unique(values, return_inverse=True)
    return np.where(table.missing[name], -1, numbers).astype(np.int64)


def _slots(table: Table, rows: Index, sequence: Sequence) -> NDArray[np.int64]:
    """Place of each row of a stretch on the grid of `every`, or its number without one."""
    if not sequence.order or sequence.every is None:
        return np.arange(len(rows))
    slots = grid_slots(table, sequence)[rows]
    twice = np.flatnonzero(np.diff(slots) == 0)
    if len(twice):
        raise DataError(
            "two rows of a series have the same place in its order",
            file=table.file,
            row=table.first_row + int(rows[twice[0] + 1]),
            column=sequence.order,
            hint="declare the entity, or a smaller every, in the schema's sequence",
        )
    return slots


def grid_slots(table: Table, sequence: Sequence) -> NDArray[np.int64]:
    """Return the place of each row on the grid of `every`, int64 [rows]."""
    assert sequence.every is not None, "the caller has seen to it"
    column = table.schema.columns[table.schema.index(sequence.order)]
    unit = _SECOND if column.kind == "timestamp" else 1.0
    order = table.columns[sequence.order].astype(np.float64)
    slots = np.rint(order / (sequence.every * unit))
    return np.clip(slots, -_FARTHEST, _FARTHEST).astype(np.int64)


def _windows_of(rows: Index, slots: NDArray[np.int64], steps: int, *, overlapping: bool) -> Index:
    """Rows of each window, intp [windows, steps], -1 where a row is absent.

    Those that overlap begin at every place between the first and the last row, and end where rows
    are absent for a whole window. Those that do not overlap begin at multiples of their length and
    have half of their rows: whether one counts depends on its own rows alone, so that one row more
    or less changes one window.
    """
    if overlapping:
        pauses = np.flatnonzero(np.diff(slots) > steps) + 1
        starts = np.concatenate(
            [np.arange(part[0], part[-1] - steps + 2) for part in np.split(slots, pauses)]
        )
    else:
        starts = np.unique(slots // steps) * steps
    wanted = starts[:, None] + np.arange(steps)
    found = np.minimum(np.searchsorted(slots, wanted), len(slots) - 1)
    place = np.where(slots[found] == wanted, rows[found], -1)
    least = 1 if overlapping else steps / 2
    return np.asarray(place[(place >= 0).sum(axis=1) >= least], np.intp)


def shared_codec(table: Table, *, max_bins: int = 32) -> Codec:
    """Make a codec of windows in which a column has the same bins at every step.

    Not private, as `Codec.fit`.

    Parameters
    ----------
    table : Table
        Windows.
    max_bins : int
        As for `Codec.fit`.
    """
    schema, sequence = windows_of(table.schema)
    changing = step_columns(schema.columns, sequence)[len(sequence.static) :]
    rows = Schema(name=schema.name, columns=changing)
    columns: dict[str, Any] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    for column in changing:
        steps = [step_name(column.name, step) for step in range(sequence.steps)]
        columns[column.name] = np.concatenate([table.columns[name] for name in steps])
        missing[column.name] = np.concatenate([table.missing[name] for name in steps])
    stacked = Codec.fit(
        Table(schema=rows, columns=columns, missing=missing), rows, max_bins=max_bins
    )
    static = Schema(name=schema.name, columns=tuple(schema.columns[: max(1, len(sequence.static))]))
    bins = dict(stacked.bins)
    if sequence.static:
        own = {name: table.columns[name] for name in static.names}
        gone = {name: table.missing[name] for name in static.names}
        bins |= Codec.fit(Table(schema=static, columns=own, missing=gone), static).bins
    return Codec(schema=schema, bins=_spread(schema, sequence, bins))


def merge_steps(schema: Schema, census: Census) -> Census:
    """Average the histograms of a column over the steps of windows: its bins are those of all.

    Parameters
    ----------
    schema : Schema
        Of windows.
    census : Census
        Of the windows; what its sigma says of averages is too much, never too little.
    """
    schema, sequence = windows_of(schema)
    counts = list(census.counts)
    for name in sequence.columns:
        steps = [schema.index(step_name(name, step)) for step in range(sequence.steps)]
        # A column has the same bounds at every step, so it is joined at all of them or at none.
        for same in zip(*(histograms_of(schema, index) for index in steps), strict=True):
            mean = np.mean([census.counts[index] for index in same], axis=0)
            for index in same:
                counts[index] = mean
    return Census(counts, census.sigma, census.rows)


def long_codec(codec: Codec) -> Codec:
    """Return the codec of the rows that a codec of windows with shared bins is made of.

    Raises
    ------
    CodecError
        A column has other bins at another step: its codes cannot move from step to step.
    """
    schema, sequence = windows_of(codec.schema)
    for name in sequence.columns:
        steps = [codec.bins.get(step_name(name, step)) for step in range(sequence.steps)]
        if len({None if bins is None else _body(bins) for bins in steps}) > 1:
            raise CodecError(f"column {name!r} has other bins at another step of a window")
    rows = Schema(name=schema.name, columns=step_columns(schema.columns, sequence))
    constraints = stepwise_constraints(schema.constraints, sequence)
    rows = Schema(name=schema.name, columns=rows.columns, constraints=constraints)
    bins = {}
    for column in rows.columns:
        if column.numeric:
            own = column.name if column.name in sequence.static else step_name(column.name, 0)
            bins[column.name] = _renamed(codec.bins[own], column)
    return Codec(schema=rows, bins=bins)


def series_table(rows: Table, sequence: Sequence, *, series: int, length: int) -> Table:
    """Put a number of the series and of the step before the rows of series, one after the other."""
    entity, order = sequence.entity or "series", "step"
    for taken in (entity, order):
        if taken in rows.schema.names:
            raise SchemaError(f"a column is called {taken!r}, as the number of series or step is")
    numbers = (
        Column(name=entity, kind="integer", low=0, high=max(0, series - 1)),
        Column(name=order, kind="integer", low=0, high=max(0, length - 1)),
    )
    columns: dict[str, Any] = {name: rows.columns.held(name) for name in rows.columns}
    columns[entity] = np.repeat(np.arange(series), length)
    columns[order] = np.tile(np.arange(length), series)
    schema = Schema(name=rows.schema.name, columns=(*numbers, *rows.schema.columns))
    return Table(schema=schema, columns=columns, missing=rows.missing, file=rows.file)


def windows_of(schema: Schema) -> tuple[Schema, Sequence]:
    """Return a schema of windows and its sequence; refuse any other schema."""
    if schema.sequence is None or not schema.sequence.columns:
        raise SchemaError(f"schema {schema.name!r} is not one of windows")
    return schema, schema.sequence


def _spread(
    schema: Schema, sequence: Sequence, bins: dict[str, NumericBins]
) -> dict[str, NumericBins]:
    """Give every step of a column the column's bins."""
    own = {
        step_name(name, step): name for name in sequence.columns for step in range(sequence.steps)
    }
    return {
        column.name: _renamed(bins[own.get(column.name, column.name)], column)
        for column in schema.columns
        if column.numeric
    }


def _body(bins: NumericBins) -> tuple[bytes, bytes]:
    body = bins.knots if bins.points is None else bins.points
    return bins.cuts.tobytes(), b"" if body is None else body.tobytes()


def _renamed(bins: NumericBins, column: Column) -> NumericBins:
    return NumericBins(column, cuts=bins.cuts, points=bins.points, knots=bins.knots)
