"""The public grid that a numeric column's census is counted on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.schema.columns import Column

__all__ = ["EXACT_VALUES", "WIDE_CELLS", "Grid", "grid_of"]

#: up to this many possible values each gets a cell of its own. Values then survive exactly
#: (flight distances, minutes of a day), the cost is bytes on the wire only: a column's rows add 1
#: to one cell whatever the number of cells, and the denoising adapts to how dense the rows are.
EXACT_VALUES = 8192

#: cells of a column with more possible values, or of a continuous one
WIDE_CELLS = 1024


class Grid(NamedTuple):
    """Equal-width cells between a column's public bounds.

    Attributes
    ----------
    low : float
        The smallest value.
    resolution : float
        Distance of neighbouring values; the width of a cell for a continuous column.
    values : int
        Number of possible values (ranks 0 .. values-1); of cells for a continuous column.
    step : int
        Values per cell; the last cell may hold fewer.
    continuous : bool
        Whether any real number may occur.
    """

    low: float
    resolution: float
    values: int
    step: int
    continuous: bool

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.ceil(self.values / self.step)

    @property
    def exact(self) -> bool:
        """Whether a cell holds one value only."""
        return self.step == 1 and not self.continuous

    def cell(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the cell of each value; values outside the bounds fall into the outermost cells.

        Parameters
        ----------
        values : float64 ndarray
            [rows], finite.

        Returns
        -------
        int64 ndarray
            [rows], 0 .. cells-1.
        """
        ranks = (values - self.low) / self.resolution
        ranks = np.floor(ranks) if self.continuous else np.rint(ranks)
        inside: NDArray[np.int64] = np.clip(ranks, 0, self.values - 1).astype(np.int64)
        return inside // self.step

    def edges(self) -> NDArray[np.float64]:
        """Borders of the cells, in values: half a resolution beside the values of discrete columns.

        Returns
        -------
        float64 ndarray
            [cells + 1], increasing.
        """
        ranks = np.minimum(np.arange(self.cells + 1) * self.step, self.values)
        return self.low + (ranks - (0.0 if self.continuous else 0.5)) * self.resolution


def grid_of(column: Column) -> Grid:
    """Return the grid of a numeric column.

    Parameters
    ----------
    column : Column
        Of a numeric kind.

    Returns
    -------
    Grid

    Raises
    ------
    SchemaError
        The column has no bounds.
    """
    low, high = column.bounds
    resolution = column.resolution
    if resolution is None:
        width = (high - low) / WIDE_CELLS
        cells = WIDE_CELLS if width > 0 else 1
        return Grid(low, width or 1.0, cells, 1, True)
    # Rounded, not floored: (0.3 - 0) / 0.1 is 2.9999999999999996.
    values = round((high - low) / resolution) + 1
    step = 1 if values <= EXACT_VALUES else math.ceil(values / WIDE_CELLS)
    return Grid(low, resolution, values, step, False)
