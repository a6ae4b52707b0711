"""The census: histograms over public cells, counted on devices, merged by the fleet.

Every column has one. A numeric column of many cells has a second one, of the same cells joined:
where rows are few, what fine cells would add up to is their noise, and joined ones still tell where
a column lies. A row adds exactly 1 to one cell of each histogram, so the squared L2 sensitivity of
the whole census to one row is the number of histograms.
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
from edge_runtime.schema.smooth import smooth
from edge_runtime.schema.table import Table

__all__ = [
    "NOMINAL_VALUES",
    "Census",
    "cell_codes",
    "cells_behind",
    "census_cells",
    "census_counts",
    "clean_census",
    "count_cells",
    "histograms_of",
    "merge_census",
]

#: an integer with at most this many possible values is coded value by value, like a category
NOMINAL_VALUES = 64


#: numeric columns of more cells are also counted in joined cells, about so many
_JOINED_CELLS, _JOINED_FROM = 64, 256
#: Fine cells tell more than joined ones once the rows are so many times the noise of a whole
#: column of them.
_FINE_SIGMAS = 10.0


class Census(NamedTuple):
    """Histograms of rows, exact or noisy.

    Attributes
    ----------
    counts : list of float64 ndarray
        One per column, [cells], the cell of missing values last; behind them one for each column
        that is also counted in joined cells.
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
            One per histogram, [cells].
        sigma : float
            Standard deviation of the noise in each cell.

        Returns
        -------
        Census
        """
        listed = [np.asarray(cells, np.float64) for cells in counts]
        return cls(listed, float(sigma), estimate_rows(listed))


def census_cells(schema: Schema) -> tuple[int, ...]:
    """Return the number of cells of each histogram.

    Parameters
    ----------
    schema : Schema
        The public declaration; nothing else decides the cells.

    Returns
    -------
    tuple of int
        Numeric columns: one cell per possible value up to `EXACT_VALUES`, else at most
        `WIDE_CELLS` equal ones; categories one per value and `other`; booleans two; and one for
        missing values where the column may have them. Then the joined cells of numeric columns with
        many, in the order of the columns.
    """
    columns = tuple(
        (grid_of(column).cells if column.numeric else len(column.labels)) + column.nullable
        for column in schema.columns
    )
    joined = tuple(
        -(-grid_of(schema.columns[d]).cells // step) + schema.columns[d].nullable
        for d, step in _joined(schema).items()
    )
    return columns + joined


def histograms_of(schema: Schema, column: int) -> tuple[int, ...]:
    """Return the places in a census of a column's histograms: its cells, then the joined ones."""
    joined = list(_joined(schema))
    if column not in joined:
        return (column,)
    return column, len(schema.columns) + joined.index(column)


def _joined(schema: Schema) -> dict[int, int]:
    """Columns that are also counted in joined cells, and how many are joined."""
    return {
        d: -(-grid_of(column).cells // _JOINED_CELLS)
        for d, column in enumerate(schema.columns)
        if column.numeric and grid_of(column).cells > _JOINED_FROM
    }


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


def cell_codes(table: Table, schema: Schema) -> NDArray[np.int32]:
    """Cell of every value in its column's census. PRIVATE.

    Parameters
    ----------
    table : Table
        Typed by `schema`.
    schema : Schema
        The public declaration.

    Returns
    -------
    int32 ndarray
        [rows, columns]

    Raises
    ------
    DataError
        An unlisted category in a column without `other`.
    """
    codes = np.empty((table.rows, len(schema.columns)), np.int32)
    for d, (column, cells) in enumerate(zip(schema.columns, census_cells(schema), strict=False)):
        if column.numeric:
            missing = table.missing[column.name]
            values = table.columns[column.name].astype(np.float64)
            codes[:, d] = grid_of(column).cell(np.where(missing, 0.0, values))
            codes[missing, d] = cells - 1
        else:
            codes[:, d] = label_codes(column, table)[0]
    return codes


def count_cells(codes: NDArray[np.int32], schema: Schema) -> list[NDArray[np.int64]]:
    """Exact histograms of what `cell_codes` returned. They are PRIVATE.

    Returns
    -------
    list of int64 ndarray
        One per histogram, [cells]; see `census_cells`.
    """
    counts = [
        np.bincount(codes[:, d], minlength=cells).astype(np.int64)
        for d, cells in enumerate(census_cells(schema)[: len(schema.columns)])
    ]
    for d, step in _joined(schema).items():
        line = grid_of(schema.columns[d]).cells
        added = np.add.reduceat(counts[d][:line], np.arange(0, line, step))
        counts.append(np.append(added, counts[d][line:]))
    return counts


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
        One per histogram, [cells]; see `census_cells`.

    Raises
    ------
    DataError
        An unlisted category in a column without `other`.
    """
    return count_cells(cell_codes(table, schema), schema)


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
        Noisy or exact; joined cells may be left out.

    Returns
    -------
    list of float64 ndarray
        One per column, [cells], none negative, each summing to the estimated number of rows
        (exact counts are returned as they are). Where joined cells were the better ones they are
        smoothed, and rows lie evenly within each.

    Raises
    ------
    CodecError
        The census is of another schema.
    """
    cells = census_cells(schema)
    found = tuple(len(counts) for counts in census.counts)
    if found not in (cells, cells[: len(schema.columns)]):
        raise CodecError(f"census has cells {found}, schema {schema.name!r} has {cells}")
    steps = _joined(schema)
    cleaned = []
    for d, column in enumerate(schema.columns):
        counts = np.asarray(census.counts[d], np.float64)
        line = len(counts) - column.nullable
        pooled = column.numeric and line > NOMINAL_VALUES
        if _prefers_joined(schema, census, d):
            joined = np.asarray(census.counts[histograms_of(schema, d)[-1]], np.float64)
            clean = smooth(
                joined,
                sigma=census.sigma,
                rows=max(1.0, census.rows),
                line=len(joined) - column.nullable,
            )
            widths = np.diff(np.append(np.arange(0, line, steps[d]), line))
            spread = np.repeat(clean[: len(widths)] / widths, widths)
            cleaned.append(np.append(spread, clean[len(widths) :]))
        else:
            cleaned.append(_denoised(counts, census, line=line if pooled else 0))
    return cleaned


def cells_behind(schema: Schema, census: Census, column: int) -> int:
    """Return how many noisy cells the clean histogram of a column comes from."""
    if _prefers_joined(schema, census, column):
        return len(census.counts[histograms_of(schema, column)[-1]])
    return len(census.counts[column])


def _prefers_joined(schema: Schema, census: Census, column: int) -> bool:
    if len(census.counts) == len(schema.columns) or column not in _joined(schema):
        return False
    fine = len(census.counts[column])
    return census.sigma > 0 and census.rows < _FINE_SIGMAS * census.sigma * np.sqrt(fine)


def _denoised(counts: NDArray[np.float64], census: Census, *, line: int) -> NDArray[np.float64]:
    return denoise(counts, sigma=census.sigma, rows=max(1.0, census.rows), line=line)
