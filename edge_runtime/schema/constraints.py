"""Constraints between columns, as part of the public declaration of a table.

A constraint is public like bounds and categories: it must be known without looking at the rows
("a trip ends after it starts", "the total is the sum of its parts", the list of which districts
belong to which city). It speaks about values that are there: what a missing value means for each
kind is said below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from edge_runtime.errors import SchemaError
from edge_runtime.schema.columns import Column, repeats

__all__ = [
    "Combinations",
    "Constraint",
    "Order",
    "Sum",
    "check_constraints",
    "constraint_from_entry",
    "sums_in_order",
]

#: keeps a schema small enough to be sent to every device
_MOST_COMBINATIONS = 10_000
#: float64 holds every integer up to here
_EXACT = 2.0**53
#: combinations are numbered in int64
_MOST_CELLS = 1 << 62


class Order(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="order",
):
    """Every column is at most the next one; a missing value is passed over.

    Parameters
    ----------
    columns : tuple of str
        Two or more, all numbers and integers or all timestamps, smallest first.
    strict : bool
        Equal values are not allowed either.
    """

    columns: tuple[str, ...]
    strict: bool = False

    def __str__(self) -> str:
        return (" < " if self.strict else " <= ").join(self.columns)


class Sum(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="sum",
):
    """A column is the sum of others; where one of them all is missing, nothing is asked.

    Parameters
    ----------
    total : str
        An integer, or a number with `decimals`.
    parts : tuple of str
        Two or more of the same kinds.
    computed : str
        Which of them is computed from the others when rows are drawn; the total when empty.
    """

    total: str
    parts: tuple[str, ...]
    computed: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, the total first."""
        return (self.total, *self.parts)

    @property
    def target(self) -> str:
        """The column that is computed."""
        return self.computed or self.total

    def __str__(self) -> str:
        return f"{self.total} = {' + '.join(self.parts)}"


class Combinations(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="combinations",
):
    """Only the listed combinations occur; a missing value fits all that agree in the rest.

    Parameters
    ----------
    columns : tuple of str
        Two or more categories and booleans.
    allowed : tuple of tuples
        One value per column each: a category's text (``"other"`` too), or true and false.
    """

    columns: tuple[str, ...]
    allowed: tuple[tuple[str | bool, ...], ...]

    def __str__(self) -> str:
        return f"a listed combination of {', '.join(self.columns)}"


Constraint: TypeAlias = Order | Sum | Combinations


def constraint_from_entry(entry: Mapping[str, Any], *, number: int) -> Constraint:
    """Read one entry of a schema file's list of constraints.

    Parameters
    ----------
    entry : mapping
        The JSON object.
    number : int
        Its place in the list, from 1, for error messages.

    Raises
    ------
    SchemaError
        It is of no known kind, or has other keys or types than its kind.
    """
    try:
        constraint: Constraint = msgspec.convert(entry, type=Constraint)
    except msgspec.ValidationError as error:
        raise SchemaError(
            f"constraint {number}: {error}; kinds are order, sum and combinations"
        ) from error
    return constraint


def check_constraints(columns: Sequence[Column], constraints: Sequence[Constraint]) -> None:
    """Refuse constraints that name no column, do not fit their kinds or can never hold.

    Raises
    ------
    SchemaError
        Naming the constraint.
    """
    by_name = {column.name: column for column in columns}
    for number, constraint in enumerate(constraints, start=1):
        place = f"constraint {number} ({constraint})"
        names = constraint.columns
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise SchemaError(
                f"{place}: there is no column {unknown[0]!r}; there are {', '.join(by_name)}"
            )
        if len(set(names)) != len(names):
            raise SchemaError(f"{place}: a column is named twice")
        own = [by_name[name] for name in names]
        match constraint:
            case Order():
                _check_order(own, place, strict=constraint.strict)
            case Sum():
                _check_sum(own, constraint, place)
            case Combinations():
                _check_combinations(own, constraint, place)
    sums_in_order(constraints)


def sums_in_order(constraints: Sequence[Constraint]) -> tuple[Sum, ...]:
    """Return the sums, each behind those that compute one of its terms.

    Raises
    ------
    SchemaError
        A column is computed twice, or from itself.
    """
    waiting = [constraint for constraint in constraints if isinstance(constraint, Sum)]
    targets = [constraint.target for constraint in waiting]
    twice = repeats(targets)
    if twice:
        raise SchemaError(
            f"column {twice[0]!r} would be computed by two sums; set computed of one of them to "
            "another of its columns"
        )
    ordered: list[Sum] = []
    while waiting:
        open_targets = {constraint.target for constraint in waiting}
        ready = [s for s in waiting if not (set(s.columns) - {s.target}) & open_targets]
        if not ready:
            raise SchemaError(
                f"sums compute each other's columns in a circle: {'; '.join(map(str, waiting))}; "
                "set computed of one of them to a column of it alone"
            )
        ordered += ready
        waiting = [constraint for constraint in waiting if constraint not in ready]
    return tuple(ordered)


def _check_order(columns: Sequence[Column], place: str, *, strict: bool) -> None:
    if len(columns) < 2:
        raise SchemaError(f"{place}: an order needs two columns or more")
    wrong = [column for column in columns if not column.numeric]
    if wrong:
        raise SchemaError(f"{place}: {wrong[0].name!r} ({wrong[0].kind}) has no order")
    if len({column.kind == "timestamp" for column in columns}) > 1:
        raise SchemaError(f"{place}: timestamps cannot be compared with numbers")
    least = -math.inf
    for index, column in enumerate(columns):
        low, high = column.bounds
        if index and (high <= least if strict else high < least):
            raise SchemaError(
                f"{place} can never hold: {column.name!r} ends at {high:g}, a column before it "
                f"begins at {least:g}"
            )
        least = max(least, low)


def _check_sum(columns: Sequence[Column], constraint: Sum, place: str) -> None:
    if len(constraint.parts) < 2:
        raise SchemaError(f"{place}: a sum needs two parts or more")
    if constraint.target not in constraint.columns:
        raise SchemaError(
            f"{place}: computed is {constraint.computed!r}; it is one of "
            f"{', '.join(constraint.columns)}"
        )
    for column in columns:
        if column.kind not in ("integer", "number") or column.resolution is None:
            raise SchemaError(
                f"{place}: {column.name!r} ({column.kind}) cannot be added up exactly; sums are of "
                "integers and of numbers with decimals"
            )
    finest = 10 ** max(column.decimals or 0 for column in columns)
    if sum(max(map(abs, column.bounds)) for column in columns) * finest > _EXACT:
        raise SchemaError(f"{place}: bounds or decimals beyond 2^53 units are not exact")
    total, parts = columns[0], columns[1:]
    low, high = (sum(column.bounds[side] for column in parts) for side in (0, 1))
    if low > total.bounds[1] or high < total.bounds[0]:
        raise SchemaError(
            f"{place} can never hold: the parts add up to {low:g} .. {high:g}, {total.name!r} lies "
            f"in {total.bounds[0]:g} .. {total.bounds[1]:g}"
        )


def _check_combinations(columns: Sequence[Column], constraint: Combinations, place: str) -> None:
    if len(columns) < 2:
        raise SchemaError(f"{place}: a combination needs two columns or more")
    numeric = [column for column in columns if column.numeric]
    if numeric:
        raise SchemaError(
            f"{place}: {numeric[0].name!r} ({numeric[0].kind}) is neither category nor boolean; "
            "declare it as a category whose values are the numbers"
        )
    if not 1 <= len(constraint.allowed) <= _MOST_COMBINATIONS:
        raise SchemaError(
            f"{place}: {len(constraint.allowed)} combinations; 1 to {_MOST_COMBINATIONS} are "
            "possible"
        )
    if math.prod(len(column.labels) + 1 for column in columns) > _MOST_CELLS:
        raise SchemaError(f"{place}: too many columns together; split it")
    for values in constraint.allowed:
        if len(values) != len(columns):
            raise SchemaError(f"{place}: {list(values)} has not one value per column")
        for column, value in zip(columns, values, strict=True):
            fits = isinstance(value, bool) if column.kind == "boolean" else value in column.labels
            if not fits:
                raise SchemaError(
                    f"{place}: {value!r} is no value of {column.name!r}: {', '.join(column.labels)}"
                )
    if len(set(constraint.allowed)) != len(constraint.allowed):
        raise SchemaError(f"{place}: a combination is listed twice")
