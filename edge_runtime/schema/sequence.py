"""Ordered rows: what a schema says of them, and the schema of their windows.

A series is learnt as a table of windows: `lags` + 1 consecutive rows side by side, the columns of
the first step first. A network over such rows knows each step given the `lags` before it, which is
all that is needed to draw series of any length, step by step; and everything that works on rows
(training, privacy, releases) works on windows, with the window as the unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edge_runtime.errors import SchemaError
from edge_runtime.schema.columns import Column
from edge_runtime.schema.constraints import Combinations, Constraint, Order, Sum

__all__ = [
    "Sequence",
    "check_sequence",
    "repeated",
    "step_columns",
    "step_name",
    "stepwise_constraints",
    "windowed_columns",
    "windowed_constraints",
]

_MOST_LAGS = 64


class Sequence(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How rows follow each other.

    Parameters
    ----------
    lags : int
        Rows before a row that it depends on, 1 to 64; a window is one row longer.
    entity : str
        The column that says to which series a row belongs, not learnt itself; empty: one series.
    order : str
        The column that orders the rows of a series, not learnt itself; empty: they come in order.
    every : float, optional
        Distance of neighbours in `order`, in its unit (seconds for a timestamp). Where a row is
        absent the window has missing values. None: neighbours are rows that follow each other.
    static : tuple of str
        Columns with one value per window, such as an activity; a window ends where one changes.
    columns : tuple of str
        The repeated columns: set in a schema of windows, empty in the schema of the rows.
    """

    lags: int
    entity: str = ""
    order: str = ""
    every: float | None = None
    static: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Rows of a window."""
        return self.lags + 1


def step_name(name: str, step: int) -> str:
    """Return what a column is called at a step of a window."""
    return f"{name}@{step}"


def check_sequence(columns: Iterable[Column], sequence: Sequence) -> None:
    """Refuse a declaration that does not fit the columns.

    Raises
    ------
    SchemaError
        Naming what does not fit.
    """
    by_name = {column.name: column for column in columns}
    if not 1 <= sequence.lags <= _MOST_LAGS:
        raise SchemaError(f"sequence: lags is {sequence.lags}; 1 to {_MOST_LAGS} are possible")
    named = sequence.static
    if sequence.columns:
        named += tuple(step_name(n, s) for n in sequence.columns for s in range(sequence.steps))
    else:
        named += tuple(name for name in (sequence.entity, sequence.order) if name)
    unknown = [name for name in named if name not in by_name]
    if unknown:
        raise SchemaError(
            f"sequence: there is no column {unknown[0]!r}; there are {', '.join(by_name)}"
        )
    if len(set(named)) != len(named):
        raise SchemaError("sequence: entity, order and static name a column twice")
    if sequence.columns:
        return
    if not set(by_name) - set(named):
        raise SchemaError("sequence: no column is left that changes from row to row")
    if sequence.order and not by_name[sequence.order].numeric:
        raise SchemaError(f"sequence: order {sequence.order!r} is neither number nor timestamp")
    if sequence.every is not None and not (
        sequence.order and math.isfinite(sequence.every) and sequence.every > 0
    ):
        raise SchemaError("sequence: every is the positive distance of neighbours in order")
    if any(by_name[name].nullable for name in (sequence.entity, sequence.order) if name):
        raise SchemaError("sequence: entity and order cannot be missing")


def repeated(columns: Iterable[Column], sequence: Sequence) -> tuple[Column, ...]:
    """Return the columns that change from row to row."""
    apart = {sequence.entity, sequence.order, *sequence.static}
    return tuple(column for column in columns if column.name not in apart)


def windowed_columns(columns: Iterable[Column], sequence: Sequence) -> tuple[Column, ...]:
    """Return the columns of windows: static ones, conditions first, then step by step."""
    columns = tuple(columns)
    static = [column for column in columns if column.name in sequence.static]
    changing = repeated(columns, sequence)
    made = sorted(static, key=lambda column: not column.condition)
    for step in range(sequence.steps):
        made += [
            msgspec.structs.replace(
                column, name=step_name(column.name, step), nullable=True, condition=False
            )
            for column in changing
        ]
    return tuple(made)


def step_columns(columns: Iterable[Column], sequence: Sequence) -> tuple[Column, ...]:
    """Return the columns of a step, from those of windows: static ones, then the changing ones."""
    columns = tuple(columns)
    static = columns[: len(sequence.static)]
    first = columns[len(static) : len(static) + len(sequence.columns)]
    named = zip(first, sequence.columns, strict=True)
    return (
        *(msgspec.structs.replace(column, condition=False) for column in static),
        *(msgspec.structs.replace(c, name=name, condition=False) for c, name in named),
    )


def windowed_constraints(
    constraints: Iterable[Constraint], sequence: Sequence
) -> tuple[Constraint, ...]:
    """Return the constraints of windows: each holds at every step.

    Raises
    ------
    SchemaError
        A constraint about the entity or the order, which windows do not have.
    """
    made: list[Constraint] = []
    for constraint in constraints:
        gone = {sequence.entity, sequence.order} & set(constraint.columns)
        if gone:
            raise SchemaError(
                f"sequence: constraint {constraint} names {gone.pop()!r}, which is not learnt"
            )
        if set(constraint.columns) <= set(sequence.static):
            made.append(constraint)
            continue
        for step in range(sequence.steps):
            names = {
                name: name if name in sequence.static else step_name(name, step)
                for name in constraint.columns
            }
            made.append(_renamed(constraint, names))
    return tuple(made)


def stepwise_constraints(
    constraints: Iterable[Constraint], sequence: Sequence
) -> tuple[Constraint, ...]:
    """Return the constraints of rows, from those of windows."""
    names = {step_name(name, 0): name for name in sequence.columns}
    names |= {name: name for name in sequence.static}
    own = [constraint for constraint in constraints if set(constraint.columns) <= set(names)]
    return tuple(_renamed(constraint, names) for constraint in own)


def _renamed(constraint: Constraint, names: Mapping[str, str]) -> Constraint:
    changes: dict[str, Any] = {}
    match constraint:
        case Order() | Combinations():
            changes["columns"] = tuple(names[name] for name in constraint.columns)
        case Sum():
            changes["total"] = names[constraint.total]
            changes["parts"] = tuple(names[name] for name in constraint.parts)
            changes["computed"] = names.get(constraint.computed, "")
    return msgspec.structs.replace(constraint, **changes)
