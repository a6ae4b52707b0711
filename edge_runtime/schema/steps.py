"""Fleets of series: the census counts steps, releases hold them one below the other.

A column has the same bins at every step of a window, so one histogram of all steps is all that a
census needs. A window adds `steps` to every histogram: its steps for columns that change, `steps`
times its value for static ones. In the worst case all of it falls into one cell, so the L2 norm of
what one window adds is `steps` for each histogram and not its square root.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import SchemaError
from edge_runtime.schema.census import Census, census_cells, histograms_of
from edge_runtime.schema.coded import Coded
from edge_runtime.schema.columns import Column
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.sequence import Sequence as Declared
from edge_runtime.schema.sequence import step_columns, step_name, stepwise_constraints
from edge_runtime.schema.table import Table
from edge_runtime.schema.windows import windows_of

__all__ = [
    "STEP",
    "WINDOW",
    "census_of",
    "census_schema",
    "census_sensitivity_squared",
    "check_fleet",
    "following",
    "long_schema",
    "steps_of_windows",
]

#: columns of a release that say which window a row is from, and which step of it
WINDOW, STEP = "window", "step"


def check_fleet(schema: Schema) -> None:
    """Refuse a schema that a fleet cannot learn by.

    Raises
    ------
    SchemaError
        It is one of windows already, its sequence has no grid, or one of its columns has a name
        that releases need.
    """
    sequence = schema.sequence
    if sequence is None:
        return
    if sequence.columns:
        raise SchemaError(
            f"schema {schema.name!r} is one of windows; a fleet takes that of the rows and cuts "
            "windows itself"
        )
    if sequence.every is None:
        raise SchemaError(
            f"schema {schema.name!r}: the sequence has no every: without a grid one row more would "
            "move all windows behind it; declare order and every"
        )
    taken = {WINDOW, STEP} & set(census_schema(schema.learnt).names)
    if taken:
        raise SchemaError(
            f"schema {schema.name!r} has a column {taken.pop()!r}, as releases of series have; "
            "give it another name"
        )


def census_schema(schema: Schema) -> Schema:
    """Return the schema that a census counts: of a step where rows are windows, else the same.

    Parameters
    ----------
    schema : Schema
        What is learnt, see `Schema.learnt`.
    """
    if schema.sequence is None:
        return schema
    return Schema(name=schema.name, columns=step_columns(schema.columns, schema.sequence))


def census_sensitivity_squared(schema: Schema) -> int:
    """Return the squared L2 norm of what one row, or one window, adds to a census at most.

    Parameters
    ----------
    schema : Schema
        What is learnt.
    """
    return len(census_cells(census_schema(schema))) * _weight(schema) ** 2


def census_of(schema: Schema, counts: Sequence[NDArray[Any]], *, sigma: float) -> Census:
    """Make a census of what is learnt from counts over `census_schema`.

    Parameters
    ----------
    schema : Schema
        What is learnt.
    counts : sequence of ndarray
        One per histogram, [cells].
    sigma : float
        Standard deviation of the noise in each cell.

    Returns
    -------
    Census
        Of windows: every step of a column has the mean over the steps, in windows.
    """
    weight = _weight(schema)
    census = Census.of([np.asarray(c, np.float64) / weight for c in counts], sigma=sigma / weight)
    if schema.sequence is None:
        return census
    steps, sequence = census_schema(schema), schema.sequence
    spread: list[NDArray[np.float64]] = [np.zeros(0)] * len(census_cells(schema))
    for place, column in enumerate(steps.columns):
        static = column.name in sequence.static
        names = [column.name] if static else _names(column.name, sequence)
        for name in names:
            own = histograms_of(schema, schema.index(name))
            for to, source in zip(own, histograms_of(steps, place), strict=True):
                spread[to] = census.counts[source]
    return Census(spread, census.sigma, census.rows)


def following(schema: Schema) -> dict[int, int]:
    """Return for each column of a later step where the same column is a step before.

    Parameters
    ----------
    schema : Schema
        What is learnt; empty where rows are no windows.
    """
    if schema.sequence is None:
        return {}
    static, width = len(schema.sequence.static), len(schema.sequence.columns)
    return {column: column - width for column in range(static + width, len(schema.columns))}


def long_schema(schema: Schema, *, windows: int) -> Schema:
    """Return the schema of windows laid out step by step: `to_windows` makes the same of them.

    Parameters
    ----------
    schema : Schema
        Of windows.
    windows : int
        How many.
    """
    schema, sequence = windows_of(schema)
    columns = [
        *schema.columns[: len(sequence.static)],
        Column(name=WINDOW, kind="integer", low=0, high=max(0, windows - 1)),
        Column(name=STEP, kind="integer", low=0, high=sequence.lags),
        *step_columns(schema.columns, sequence)[len(sequence.static) :],
    ]
    laid_out = Declared(
        lags=sequence.lags, entity=WINDOW, order=STEP, every=1.0, static=sequence.static
    )
    return Schema.ordered(
        name=schema.name,
        columns=columns,
        constraints=stepwise_constraints(schema.constraints, sequence),
        sequence=laid_out,
    )


def steps_of_windows(table: Table) -> Table:
    """Lay windows out in long form: a row per step, the steps of a window below each other.

    Parameters
    ----------
    table : Table
        Windows; a step that is absent becomes a row of missing values.

    Returns
    -------
    Table
        Of `long_schema`, `steps` times as many rows.
    """
    schema, sequence = windows_of(table.schema)
    made = long_schema(schema, windows=table.rows)
    steps = sequence.steps
    columns: dict[str, Any] = {
        WINDOW: np.repeat(np.arange(table.rows), steps),
        STEP: np.tile(np.arange(steps), table.rows),
    }
    missing: dict[str, NDArray[np.bool_]] = {}
    every = np.repeat(np.arange(table.rows), steps)
    for name in sequence.static:
        columns[name], missing[name] = table.columns.held(name)[every], table.missing[name][every]
    for name in sequence.columns:
        names = _names(name, sequence)
        columns[name] = _interleaved([table.columns.held(each) for each in names])
        missing[name] = np.stack([table.missing[each] for each in names], axis=1).ravel()
    return Table(
        schema=made, columns=columns, missing=missing, file=table.file, synthetic=table.synthetic
    )


def _weight(schema: Schema) -> int:
    return 1 if schema.sequence is None else schema.sequence.steps


def _names(name: str, sequence: Declared) -> list[str]:
    return [step_name(name, step) for step in range(sequence.steps)]


def _interleaved(parts: Sequence[NDArray[Any] | Coded]) -> NDArray[Any] | Coded:
    if isinstance(parts[0], Coded):
        codes = [part.codes for part in parts if isinstance(part, Coded)]
        return Coded(np.stack(codes, axis=1).ravel(), parts[0].labels)
    return np.stack([np.asarray(part) for part in parts], axis=1).ravel()
