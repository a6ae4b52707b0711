"""Which bins a numeric column gets: from a census, from rows, or one per value."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from edge_runtime.schema.bins import bin_weights, inner_points, partition
from edge_runtime.schema.census import NOMINAL_VALUES
from edge_runtime.schema.columns import Column
from edge_runtime.schema.grid import grid_of
from edge_runtime.schema.numeric import NumericBins

__all__ = ["bins_from_cells", "bins_from_rows", "bins_from_values"]

F64 = NDArray[np.float64]

#: columns with at most this many distinct values give back exactly those values
_SNAP_VALUES = 512

#: rows that a bin should stand for at least: thinner bins cost a generator more than they tell
_ROWS_PER_BIN = 20

#: rows per value from which on an integer with few distinct values is coded value by value
_ROWS_PER_VALUE = 10


def bins_from_cells(
    column: Column, mass: F64, *, rows: float, max_bins: int, knots: int
) -> NumericBins:
    """Bins from a histogram over the column's grid.

    Parameters
    ----------
    column : Column
        Of a numeric kind.
    mass : float64 ndarray
        [cells of the grid], not negative, without missing values. All zero counts as uniform.
    rows : float
        Rows behind the histogram; few rows make few bins.
    max_bins : int
        Most bins of a column that is not coded value by value.
    knots : int
        Quantiles per bin where cells hold more than one value.

    Returns
    -------
    NumericBins
    """
    grid = grid_of(column)
    if grid.values == 1 or (column.kind == "integer" and grid.values <= NOMINAL_VALUES):
        every = grid.low + np.arange(grid.values, dtype=np.float64)
        return _one_bin_per_value(column, every)
    if mass.sum() <= 0:
        mass = np.ones_like(mass)
    if grid.exact:
        values = grid.low + np.arange(grid.cells, dtype=np.float64) * grid.resolution
        if column.kind == "number":
            values = np.round(values, column.decimals or 0)
        return bins_from_values(column, values, mass, rows=rows, max_bins=max_bins)
    edges = grid.edges()
    limit = _bin_limit(rows, max_bins)
    borders = partition(bin_weights(mass, (edges[:-1] + edges[1:]) / 2), limit)
    total = np.concatenate([[0.0], np.cumsum(mass)])
    table = np.empty((len(borders) - 1, max(2, knots)))
    for index, (start, stop) in enumerate(itertools.pairwise(borders)):
        full = np.flatnonzero(mass[start:stop])
        first, last = start + full[0], start + full[-1] + 1
        levels = np.linspace(total[first], total[last], table.shape[1])
        table[index] = np.interp(levels, total[first : last + 1], edges[first : last + 1])
    if grid.continuous:
        table = np.clip(table, *column.bounds)  # 1,024 widths may round to a little too much
    else:
        table = np.clip((table - grid.low) / grid.resolution, -0.5, grid.values - 0.5)
    return NumericBins(
        column, cuts=edges[borders[1:-1]], knots=np.maximum.accumulate(table, axis=1)
    )


def bins_from_rows(column: Column, values: F64, *, max_bins: int, knots: int) -> NumericBins:
    """Bins from raw values.

    Parameters
    ----------
    column : Column
        Of a numeric kind.
    values : float64 ndarray
        [rows], present ones only; clamped to the bounds.
    max_bins, knots : int
        As in `bins_from_cells`.

    Returns
    -------
    NumericBins
    """
    grid = grid_of(column)
    values = np.clip(values, *column.bounds)
    if grid.exact or not len(values):
        mass = np.bincount(grid.cell(values), minlength=grid.cells).astype(np.float64)
        return bins_from_cells(column, mass, rows=len(values), max_bins=max_bins, knots=knots)
    distinct, counts = np.unique(values, return_counts=True)
    mass = counts.astype(np.float64)
    if len(distinct) <= _SNAP_VALUES:
        return bins_from_values(column, distinct, mass, rows=len(values), max_bins=max_bins)
    limit = _bin_limit(len(values), max_bins)
    borders = partition(bin_weights(mass, distinct), limit)
    ordered = np.sort(values)
    ends = np.concatenate([[0], np.cumsum(counts)])
    levels = np.linspace(0.0, 1.0, max(2, knots))
    table = np.stack(
        [
            np.quantile(ordered[ends[start] : ends[stop]], levels)
            for start, stop in itertools.pairwise(borders)
        ]
    )
    if not grid.continuous:
        table = np.rint((table - grid.low) / grid.resolution)
    cuts = (distinct[borders[1:-1] - 1] + distinct[borders[1:-1]]) / 2
    return NumericBins(column, cuts=cuts, knots=table)


def _bin_limit(rows: float, max_bins: int) -> int:
    return int(min(max_bins, max(2, rows // _ROWS_PER_BIN)))


def _one_bin_per_value(column: Column, values: F64) -> NumericBins:
    return NumericBins(column, cuts=(values[:-1] + values[1:]) / 2, points=values[:, None])


def bins_from_values(
    column: Column, values: F64, mass: F64, *, rows: float, max_bins: int
) -> NumericBins:
    """Bins of exact values: one per value when they are few, else runs of them.

    Parameters
    ----------
    column : Column
        Of a numeric kind.
    values : float64 ndarray
        [values], increasing, inside the bounds.
    mass : float64 ndarray
        [values], rows with each, not all zero.
    rows, max_bins
        As in `bins_from_cells`.

    Returns
    -------
    NumericBins
    """
    present = mass > 0
    values, mass = values[present], mass[present]
    limit = _bin_limit(rows, max_bins)
    few = column.kind == "integer" and len(values) <= NOMINAL_VALUES
    if len(values) <= limit or (few and rows >= _ROWS_PER_VALUE * len(values)):
        return _one_bin_per_value(column, values)
    borders = partition(bin_weights(mass, values), limit)
    points = np.stack(
        [
            inner_points(values[start:stop], mass[start:stop])
            for start, stop in itertools.pairwise(borders)
        ]
    )
    cuts = (values[borders[1:-1] - 1] + values[borders[1:-1]]) / 2
    return NumericBins(column, cuts=cuts, points=points)
