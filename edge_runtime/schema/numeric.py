"""Bins of one numeric column: values to codes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime import kernel
from edge_runtime.errors import CodecError
from edge_runtime.schema.columns import Column, format_timestamp
from edge_runtime.schema.grid import grid_of

__all__ = ["NumericBins"]

F64 = NDArray[np.float64]


class NumericBins:
    """Bins of one numeric column.

    Two forms. *Points*: a bin holds a list of equally likely exact values. *Knots*: a bin is a
    piecewise-linear distribution through evenly spaced quantiles; discrete columns are rounded.

    Parameters
    ----------
    column : Column
        Of a numeric kind.
    cuts : float64 ndarray
        [bins - 1] increasing; a value belongs to bin `i` when ``cuts[i-1] <= value < cuts[i]``.
    points : float64 ndarray, optional
        [bins, slots] values inside the column's bounds.
    knots : float64 ndarray, optional
        [bins, at least 2], nondecreasing in each bin: values of a continuous column, ranks
        (steps of the resolution above low) of a discrete one.

    Raises
    ------
    CodecError
        Shapes, order or ranges are wrong, or not exactly one of points and knots is given.
    """

    def __init__(
        self, column: Column, *, cuts: F64, points: F64 | None = None, knots: F64 | None = None
    ) -> None:
        self.column = column
        self.cuts = cuts
        self.points = points
        self.knots = knots
        self.bins = len(cuts) + 1
        self._check()
        self._table = None if points is None else self._decoding_table(points)

    def _check(self) -> None:
        place = f"column {self.column.name!r}"
        body = self.points if self.knots is None else self.knots
        if body is None or (self.points is not None and self.knots is not None):
            raise CodecError(f"{place}: bins need points or knots, one of them")
        if body.ndim != 2 or body.shape[0] != self.bins or body.shape[1] < 1:
            raise CodecError(f"{place}: {self.bins} bins but a table of shape {body.shape}")
        if not np.isfinite(self.cuts).all() or (np.diff(self.cuts) <= 0).any():
            raise CodecError(f"{place}: cuts are not increasing")
        low, high = self.column.bounds
        grid = grid_of(self.column)
        if self.knots is not None and not grid.continuous:
            low, high = -0.5, grid.values - 0.5
        if not (np.isfinite(body).all() and body.min() >= low and body.max() <= high):
            raise CodecError(f"{place}: bins reach beyond the bounds {low} .. {high}")
        if self.knots is not None and (body.shape[1] < 2 or (np.diff(body) < 0).any()):
            raise CodecError(f"{place}: knots are fewer than two or not in order")

    def _decoding_table(self, points: F64) -> NDArray[np.float64] | NDArray[np.int64]:
        """[(bins + 1) * slots]: the points, and a bin of missing values behind them."""
        whole = self.column.kind != "number"
        missing = np.full((1, points.shape[1]), 0.0 if whole else np.nan)
        table = np.concatenate([points, missing]).ravel()
        return np.rint(table).astype(np.int64) if whole else table

    @property
    def cardinality(self) -> int:
        """Number of codes, with the one for missing values."""
        return self.bins + self.column.nullable

    def encode(self, values: F64, missing: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
        """Codes of values, and how many values lay outside the bounds.

        Parameters
        ----------
        values : float64 ndarray
            [rows]
        missing : bool ndarray
            [rows]

        Returns
        -------
        codes : int32 ndarray
            [rows]
        clamped : int
            Present values below low or above high; they fall into the outermost bins.
        """
        low, high = self.column.bounds
        outside = int(((values < low) | (values > high))[~missing].sum())
        codes = np.searchsorted(self.cuts, np.clip(values, low, high), side="right")
        codes[missing] = self.bins
        return codes.astype(np.int32), outside

    def decode(
        self, codes: NDArray[np.int32], *, key: bytes, stream: int, offset: int
    ) -> NDArray[np.float64] | NDArray[np.int64]:
        """Values drawn inside the bins of codes.

        Parameters
        ----------
        codes : int32 ndarray
            [rows], possibly strided, 0 .. cardinality - 1.
        key, stream, offset
            Address of the uniform numbers used, one per row, as `kernel.fill_uniform` takes it.

        Returns
        -------
        ndarray
            [rows] float64 (NaN missing) for numbers, else int64 (0 missing).
        """
        if self.single_valued:
            # nothing is drawn where every bin is one value
            return self.place(codes, np.empty(0, np.float32))
        uniform = np.empty(len(codes), np.float32)
        kernel.fill_uniform(uniform, key=key, stream=stream, offset=offset)
        return self.place(codes, uniform)

    @property
    def single_valued(self) -> bool:
        """Whether every bin is one value, so that a code says it all."""
        return self._table is not None and self._table.size == self.bins + 1

    def place(
        self, codes: NDArray[np.int32], uniform: NDArray[np.float32]
    ) -> NDArray[np.float64] | NDArray[np.int64]:
        """Values at given places inside the bins of codes.

        Parameters
        ----------
        codes : int32 ndarray
            [rows], possibly strided, 0 .. cardinality - 1.
        uniform : float32 ndarray
            [rows] in [0, 1): 0 is a bin's smallest value, .5 its median. Not looked at when the
            bins are `single_valued`.

        Returns
        -------
        ndarray
            As `decode`.
        """
        if self._table is not None and self.single_valued:
            return self._table[codes]
        if self._table is not None:
            slots = self._table.size // (self.bins + 1)
            # exact in float32: uniforms have 24 bits, and slots is a power of two up to 512
            place = (uniform * np.float32(slots)).astype(np.int64)
            place += np.multiply(codes, slots, dtype=np.int64)
            return self._table[place]
        if self.knots is None:
            raise CodecError(f"column {self.column.name!r} has neither points nor knots")
        if grid_of(self.column).continuous:
            values = np.empty(len(codes), np.float64)
            kernel.decode_linear(codes, uniform, self.knots, values)
            return values
        ranks = np.empty(len(codes), np.int64)
        kernel.decode_linear(codes, uniform, self.knots, ranks)
        return self.finished(ranks, codes == self.bins)

    def ranges(self) -> tuple[F64, F64]:
        """Return the smallest and the largest value that each bin can decode to, [bins] each."""
        if self.points is not None:
            return self.points.min(axis=1), self.points.max(axis=1)
        if self.knots is None:
            raise CodecError(f"column {self.column.name!r} has neither points nor knots")
        grid = grid_of(self.column)
        low, high = self.knots[:, 0], self.knots[:, -1]
        if grid.continuous:
            return low, high
        ranks = np.clip(np.stack([np.floor(low), np.ceil(high)]), 0, grid.values - 1)
        low, high = grid.low + ranks * grid.resolution
        return low, high

    @property
    def decodes_in_blocks(self) -> bool:
        """Whether the kernel can decode by `output`: points must be a power of two."""
        slots = 1 if self.points is None else self.points.shape[1]
        return slots & (slots - 1) == 0

    def output(self, rows: int, missing: NDArray[np.bool_] | None) -> kernel.Output:
        """Return what the kernel shall decode so many rows into; `finished` makes them values."""
        if self._table is not None:
            table = self._table.reshape(self.bins + 1, -1)
            out = np.empty(rows, table.dtype)
            return kernel.Output(kind="points", table=table, out=out, missing=missing)
        if grid_of(self.column).continuous:
            values = np.empty(rows, np.float64)
            return kernel.Output(kind="linear_f64", table=self.knots, out=values, missing=missing)
        ranks = np.empty(rows, np.int64)
        return kernel.Output(kind="linear_i64", table=self.knots, out=ranks, missing=missing)

    def finished(
        self, decoded: NDArray[Any], missing: NDArray[np.bool_] | None
    ) -> NDArray[np.float64] | NDArray[np.int64]:
        """Values of what the kernel decoded: ranks of a discrete column become numbers.

        Parameters
        ----------
        decoded : float64 or int64 ndarray
            [rows]
        missing : bool ndarray, optional
            [rows]

        Returns
        -------
        ndarray
            As `decode`.
        """
        grid = grid_of(self.column)
        if self._table is not None or grid.continuous:
            return decoded
        ranks, gone = decoded, slice(0) if missing is None else missing
        if self.column.kind == "number":
            values = np.round(grid.low + ranks * grid.resolution, self.column.decimals or 0)
            values[gone] = np.nan
            return values
        whole = int(grid.low) + ranks * int(grid.resolution)
        whole[gone] = 0
        return whole

    def label(self, code: int) -> str:
        """Say what a code stands for: ``"17"``, ``"[10, 15)"``; of points the first and last value.

        Parameters
        ----------
        code : int
            0 .. bins - 1.

        Returns
        -------
        str
        """
        if self.points is not None:
            first, last = self.points[code, 0], self.points[code, -1]
            if first == last:
                return self._shown(first)
            return f"[{self._shown(first)}, {self._shown(last)}]"
        low, high = self.column.bounds
        start = self.cuts[code - 1] if code > 0 else low
        stop = self.cuts[code] if code < self.bins - 1 else high
        if not grid_of(self.column).continuous:
            # the cuts of discrete columns lie half a resolution beside the values
            half = grid_of(self.column).resolution / 2
            start, stop = start + half * (code > 0), stop + half * (code < self.bins - 1)
        close = "]" if code == self.bins - 1 else ")"
        return f"[{self._shown(start)}, {self._shown(stop)}{close}"

    def _shown(self, value: float) -> str:
        if self.column.kind == "timestamp":
            return format_timestamp(round(value))
        if self.column.kind == "integer":
            return str(round(value))
        if self.column.decimals is not None:
            return f"{value:.{self.column.decimals}f}"
        return f"{value:.6g}"
