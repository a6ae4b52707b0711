"""Whether constraints hold: on plain values, and on a table of real rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from edge_runtime.schema.census import label_codes
from edge_runtime.schema.columns import Column
from edge_runtime.schema.constraints import Combinations, Constraint, Order, Sum
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.table import Table
from edge_runtime.schema.writing import listed

__all__ = ["Listed", "broken_rows", "order_broken", "refuse_broken", "sum_gap", "units"]

Mask = NDArray[np.bool_]
F64 = NDArray[np.float64]


def order_broken(
    order: Order, least: Sequence[F64], most: Sequence[F64], missing: Sequence[Mask]
) -> Mask:
    """Say where no values between `least` and `most` are in order, bool [rows].

    Parameters
    ----------
    order : Order
    least, most : sequence of float64 [rows]
        Per column of the order, the smallest and the largest value it can have; the same twice
        for values that are known.
    missing : sequence of bool [rows]
        Where a column has no value: it is passed over.
    """
    broken = np.zeros(len(missing[0]), np.bool_)
    reached = np.full(len(broken), -np.inf)
    for low, high, gone in zip(least, most, missing, strict=True):
        late = high <= reached if order.strict else high < reached
        broken |= late & ~gone
        reached = np.where(gone, reached, np.maximum(reached, low))
    return broken


def units(columns: Mapping[str, Column], constraint: Sum) -> float:
    """Units per 1 in which all columns of a sum are whole numbers."""
    return 10.0 ** max(columns[name].decimals or 0 for name in constraint.columns)


def sum_gap(constraint: Sum, values: Mapping[str, F64], scale: float) -> F64:
    """Total minus parts in whole units, float64 [rows]; 0 where the sum holds."""
    gap: F64 = np.rint(values[constraint.total] * scale)
    for part in constraint.parts:
        gap = gap - np.rint(values[part] * scale)
    return gap


class Listed:
    """Looks combinations of codes up in the list of a constraint.

    Parameters
    ----------
    constraint : Combinations
    columns : sequence of Column
        Its columns, in its order.
    """

    def __init__(self, constraint: Combinations, columns: Sequence[Column]) -> None:
        codes = [{label: code for code, label in enumerate(c.labels)} for c in columns]
        self._allowed = np.array(
            [
                [
                    codes[index][("false", "true")[value] if isinstance(value, bool) else value]
                    for index, value in enumerate(values)
                ]
                for values in constraint.allowed
            ],
            np.int64,
        )
        self._sizes = [len(column.labels) for column in columns]

    def unlisted(self, codes: NDArray[np.int32]) -> Mask:
        """Say which rows are in no combination, bool [rows].

        Parameters
        ----------
        codes : int32 [rows, columns of the constraint]
            A column's last code, behind its labels, is a missing value.
        """
        missing = codes >= self._sizes
        pattern = missing @ (1 << np.arange(len(self._sizes), dtype=np.int64))
        found = np.zeros(len(codes), np.bool_)
        for which in np.unique(pattern):
            rows = np.flatnonzero(pattern == which)
            there = np.flatnonzero(~missing[rows[0]])
            found[rows] = np.isin(
                self._numbers(codes[rows], there), self._numbers(self._allowed, there)
            )
        return ~found

    def _numbers(self, codes: NDArray[Any], columns: NDArray[np.intp]) -> NDArray[np.int64]:
        numbers = np.zeros(len(codes), np.int64)
        for column in columns:
            numbers = numbers * self._sizes[column] + codes[:, column]
        return numbers


def broken_rows(table: Table, constraint: Constraint) -> Mask:
    """Say which rows of a table break a constraint, bool [rows].

    Raises
    ------
    DataError
        A value that is not among a category's, in a column of the constraint.
    """
    schema = table.schema
    columns = {name: schema.columns[schema.index(name)] for name in constraint.columns}
    missing = [table.missing[name] for name in constraint.columns]
    if isinstance(constraint, Combinations):
        codes = np.stack([label_codes(column, table)[0] for column in columns.values()], axis=1)
        return Listed(constraint, list(columns.values())).unlisted(codes)
    values = {name: table.columns[name].astype(np.float64) for name in constraint.columns}
    if isinstance(constraint, Order):
        own = [values[name] for name in constraint.columns]
        return order_broken(constraint, own, own, missing)
    gone = np.logical_or.reduce(missing)
    for column in values.values():
        column[gone] = 0.0
    return np.asarray(sum_gap(constraint, values, units(columns, constraint)) != 0)


def refuse_broken(table: Table, schema: Schema) -> None:
    """Refuse real rows that contradict the constraints of their schema.

    For the eyes of somebody who has the rows. A device does not ask: what it does afterwards would
    tell whoever wrote the schema whether there is such a row.

    Raises
    ------
    DataError
        Naming the first such row.
    """
    for constraint in schema.constraints:
        broken = broken_rows(table, constraint)
        if broken.any():
            row = int(np.argmax(broken))
            one = table.take(slice(row, row + 1))
            raise DataError(
                f"the row breaks the schema's constraint {constraint}",
                file=table.file,
                row=table.first_row + row,
                value={name: listed(one, name)[0] for name in constraint.columns},
                hint="correct the row at its source, or take the constraint out of the schema",
            )
