"""The census: one histogram per column over public cells, counted on devices, merged by the fleet.

A row adds exactly 1 to one cell of each column, so the squared L2 sensitivity of the whole census
to one row is the number of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CodecError, DataError
from edge_runtime.schema.columns import Column
from edge_runtime.schema.denoise import denoise, estimate_rows
from edge_runtime.schema.grid import grid_of
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.table import Table

__all__ = [
    "NOMINAL_VALUES",
    "Census",
    "census_cells",
    "census_counts",
    "clean_census",
    "merge_census",
]

#: an integer with at most this many possible values is coded value by value, like a category
NOMINAL_VALUES = 64


class Census(NamedTuple):
    """Histograms of rows, exact or noisy.

    Attributes
    ----------
    counts : list of float64 ndarray
        One per column, [cells], the cell of missing values last.
    sigma : float
        Standard deviation of the noise in each cell; 0 when the counts are exact.
    rows : float
        Estimated number of rows.
    """

    counts: list[NDArray[np.float64]]
    sigma: float
    rows: float

    @classmethod
    def of(cls, counts: Sequence[NDArray[Any]], *, sigma: float) -> Census:
        """Make a census whose number of rows is estimated from the counts themselves.

        Parameters
        ----------
        counts : sequence of ndarray
            One per column, [cells].
        sigma : float
            Standard deviation of the noise in each cell.

        Returns
        -------
        Census
        """
        listed = [np.asarray(cells, np.float64) for cells in counts]
        return cls(listed, float(sigma), estimate_rows(listed))


def census_cells(schema: Schema) -> tuple[int, ...]:
    """Return the number of cells of each column.

    Parameters
    ----------
    schema : Schema
        The public declaration; nothing else decides the cells.

    Returns
    -------
    tuple of int
        Numeric columns: one cell per possible value up to `EXACT_VALUES`, else at most
        `WIDE_CELLS` equal ones; categories one per value and `other`; booleans two; and one for
        missing values where the column may have them.
    """
    return tuple(
        (grid_of(column).cells if column.numeric else len(column.labels)) + column.nullable
        for column in schema.columns
    )


def label_codes(column: Column, table: Table) -> tuple[NDArray[np.int32], int]:
    """Codes of a category or boolean column, missing last, and how many values were unlisted.

    Parameters
    ----------
    column : Column
        A category or a boolean.
    table : Table
        The rows.

    Returns
    -------
    codes : int32 ndarray
        [rows]
    unknown : int
        Values outside the declared list, coded as `other`.

    Raises
    ------
    DataError
        An unlisted value in a column without `other`.
    """
    values, missing = table.columns[column.name], table.missing[column.name]
    last = len(column.labels)
    if column.kind == "boolean":
        return np.where(missing, last, values).astype(np.int32), 0
    known: dict[object, int] = {label: code for code, label in enumerate(column.values)}
    known[None] = last
    codes = np.fromiter((known.get(value, -1) for value in values), np.int32, len(values))
    unlisted = codes < 0
    unknown = int(unlisted.sum())
    if unknown and not column.other:
        row = int(np.argmax(unlisted))
        raise DataError(
            "is not among the column's values",
            file=table.file,
            row=table.first_row + row,
            column=column.name,
            value=values[row],
            hint="add it to the schema's values, or declare other",
        )
    codes[unlisted] = last - 1
    return codes, unknown


def census_counts(table: Table, schema: Schema) -> list[NDArray[np.int64]]:
    """Exact histograms of a table. They are private: release them through a mechanism only.

    Parameters
    ----------
    table : Table
        Typed by `schema`.
    schema : Schema
        The public declaration.

    Returns
    -------
    list of int64 ndarray
        One per column, [cells].

    Raises
    ------
    DataError
        An unlisted category in a column without `other`.
    """
    counts = []
    for column, cells in zip(schema.columns, census_cells(schema), strict=True):
        if column.numeric:
            missing = table.missing[column.name]
            values = table.columns[column.name].astype(np.float64)
            index = grid_of(column).cell(np.where(missing, 0.0, values))
            index[missing] = cells - 1
        else:
            index = label_codes(column, table)[0].astype(np.int64)
        counts.append(np.bincount(index, minlength=cells).astype(np.int64))
    return counts


def merge_census(parts: Sequence[Census]) -> Census:
    """Merge into the census of a fleet: cells add up, and so do the variances of their noise.

    Parameters
    ----------
    parts : sequence of Census
        At least one, all of the same schema.

    Returns
    -------
    Census
        With a number of rows estimated anew from the sums.

    Raises
    ------
    CodecError
        Nothing to merge, or different cells.
    """
    if not parts:
        raise CodecError("no census to merge")
    shapes = {tuple(len(cells) for cells in part.counts) for part in parts}
    if len(shapes) != 1:
        raise CodecError(f"census parts of different cells: {sorted(shapes)}")
    summed = [
        np.sum([part.counts[index] for part in parts], axis=0)
        for index in range(len(parts[0].counts))
    ]
    return Census.of(summed, sigma=float(np.sqrt(sum(part.sigma**2 for part in parts))))


def clean_census(schema: Schema, census: Census) -> list[NDArray[np.float64]]:
    """Return the most likely true histograms behind a noisy census.

    Parameters
    ----------
    schema : Schema
        The public declaration.
    census : Census
        Noisy or exact.

    Returns
    -------
    list of float64 ndarray
        One per column, [cells], none negative, each summing to the estimated number of rows
        (exact counts are returned as they are).

    Raises
    ------
    CodecError
        The census is of another schema.
    """
    cells = census_cells(schema)
    found = tuple(len(counts) for counts in census.counts)
    if found != cells:
        raise CodecError(f"census has cells {found}, schema {schema.name!r} has {cells}")
    cleaned = []
    for column, counts in zip(schema.columns, census.counts, strict=True):
        smooth = column.numeric and grid_of(column).cells > NOMINAL_VALUES
        cleaned.append(
            denoise(
                np.asarray(counts, np.float64),
                sigma=census.sigma,
                rows=max(1.0, census.rows),
                line=len(counts) - column.nullable if smooth else 0,
            )
        )
    return cleaned
