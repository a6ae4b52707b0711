"""Distances between rows and noisy counts, with the part of them that noise and sampling explain.

Total variation is the share of rows that would have to change, so it can be told to people. What a
finite sample and the counts' Gaussian noise add to it is bounded by its mean plus a deviation that
Gaussian concentration limits (Tsirelson, Ibragimov and Sudakov 1976: a function with Lipschitz
constant L exceeds its mean by L * sqrt(2 ln(1/p)) with probability p at most). Cells that noise
drowns are merged into one, which never increases the distance: so a table with many cells keeps
what power it has, and a limit stays a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Table

__all__ = [
    "Dependence",
    "Distance",
    "compare",
    "counts_of",
    "dependence",
    "marginal",
    "rows_behind",
    "rows_of",
]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: mean absolute value of a standard normal number
_MEAN_ABSOLUTE = math.sqrt(2 / math.pi)

#: a table whose sum is further than this from the rows of the others counts other rows
_SAME_ROWS_SIGMAS = 4.0

#: variance of a table's sum, in units of its squared rows, from which it is drowned in noise
_DROWNED = 0.03

#: cells below this many standard deviations of the noise are merged
_MERGE_SIGMAS = 2.0


class Distance(NamedTuple):
    """How far rows are from counts.

    `value` is the total variation found (0 to 1), `noise` what noise and sampling add to it on
    average, `reach` the Lipschitz constant of its deviation: with probability 1 - p it stays
    below the true distance + noise + reach * sqrt(2 ln(1/p)).
    """

    columns: tuple[int, ...]
    value: float
    noise: float
    reach: float

    def explained(self, p: float) -> float:
        """Return what noise and sampling explain at most, up to a probability p."""
        return self.noise + self.reach * math.sqrt(2 * math.log(1 / p))


def counts_of(codes: I32, table: Table, weights: F64 | None = None) -> F64:
    """Return the rows' counts in the cells of a table.

    Parameters
    ----------
    codes : int32 [n, D]
        Rows.
    table : Table
        Says which columns.
    weights : float64 [n], optional
        What each row counts.

    Returns
    -------
    float64 [cells]
    """
    counted = np.bincount(table.cells(codes), weights, minlength=table.counts.size)
    return counted.astype(np.float64)


def marginal(tables: Iterable[Table], columns: Sequence[int]) -> Table | None:
    """Return the counts over some columns with the least noise for their rows, summed from a table.

    Parameters
    ----------
    tables : iterable of Table
        Measured tables.
    columns : sequence of int
        Ascending.

    Returns
    -------
    Table or None
        None when no table has all of the columns.
    """
    wanted = set(columns)
    found = [table.marginal(columns) for table in tables if wanted <= set(table.columns)]
    return min(found, key=lambda t: (t.variance / t.rows**2, -t.rows), default=None)


def rows_of(tables: Iterable[Table]) -> tuple[float, float]:
    """Estimate the rows behind several tables of the same rows, with its variance.

    Every table's sum estimates it, with the variance of all its cells; they are weighed by the
    inverse. An exact table decides alone.

    Returns
    -------
    rows, variance : float
        `rows` is at least 1; variance is infinite without tables.
    """
    total = precision = 0.0
    for table in tables:
        variance = table.variance * table.counts.size
        if variance == 0:
            return max(1.0, float(table.counts.sum())), 0.0
        total += float(table.counts.sum()) / variance
        precision += 1 / variance
    if precision == 0:
        return 1.0, math.inf
    return max(1.0, total / precision), 1 / precision


def rows_behind(table: Table, rows: float, rows_variance: float) -> tuple[float, float]:
    """Return the rows behind one table and their variance: those of all tables, or its own sum.

    Its own sum stands where the two disagree: not every device has counted every table.
    """
    own, variance = table.rows, table.variance * table.counts.size
    if abs(own - rows) <= _SAME_ROWS_SIGMAS * math.sqrt(variance + rows_variance):
        return rows, rows_variance
    return own, variance


def compare(
    found: F64,
    table: Table,
    *,
    sample: float,
    rows: float,
    rows_variance: float = 0.0,
    beside: F64 | None = None,
) -> Distance:
    """Compare the counts of sampled rows with a noisy table.

    Parameters
    ----------
    found : float64 [cells]
        Counts (or summed weights) of the sampled rows in the table's cells.
    table : Table
        Noisy counts of real rows.
    sample : float
        How many rows were sampled; with weights their effective number.
    rows, rows_variance : float
        Real rows behind the table, from `rows_of`.
    beside : float64 [cells], optional
        Counts of other rows that are compared with the same table: cells are merged alike.

    Returns
    -------
    Distance
    """
    rows, rows_variance = rows_behind(table, rows, rows_variance)
    share = found / max(1e-12, float(found.sum()))
    real = table.counts.ravel() / rows
    # Chosen by the rows, not by the noisy counts: choosing by these would keep lucky cells.
    most = share if beside is None else np.maximum(share, beside / max(1e-12, float(beside.sum())))
    keep = most * rows > _MERGE_SIGMAS * math.sqrt(table.variance)
    merged = int(np.count_nonzero(~keep))
    f = np.append(share[keep], share[~keep].sum())
    q = np.append(real[keep], real[~keep].sum())
    cells = np.append(np.ones(int(keep.sum())), merged)
    likely = np.clip(np.maximum(f, q), 0.0, 1.0)
    variance = (
        likely * (1 - likely) / max(1.0, sample)
        + cells * table.variance / rows**2
        + q**2 * rows_variance / rows**2
    )
    return Distance(
        columns=table.columns,
        value=min(1.0, 0.5 * float(np.abs(f - q).sum())),
        noise=0.5 * _MEAN_ABSOLUTE * float(np.sqrt(variance).sum()),
        reach=0.5 * math.sqrt(float(variance.sum())),
    )


class Dependence(NamedTuple):
    """How much of a table's dependence rows have: `product / square`.

    `variance` is that of `product`, `spread` the standard deviation of `square`.
    """

    product: float
    square: float
    variance: float
    spread: float


def dependence(found: F64, table: Table, *, sample: float, rows: float) -> Dependence:
    """Project the rows' deviation from independence on that of a table of two columns.

    With R = q_ab - q_a q_b the table's and S the rows' deviation, the figures are <S, R> and an
    unbiased <R, R>: their ratio is 1 when all is kept, 0 when columns are independent, negative
    when they are exchanged. Noise in R is independent of S; its squares are taken off <R, R>, as
    are those of the real rows' own sampling.

    Parameters
    ----------
    found : float64 [A, B]
        Counts of sampled rows.
    table : Table
        Noisy counts of real rows, [A, B].
    sample : float
        Sampled rows (effective).
    rows : float
        Real rows.

    Returns
    -------
    Dependence
        All zero where noise drowns the table: the products of both margins' noise are then no
        longer small beside the table itself.
    """
    real = table.counts / rows
    share = found / max(1e-12, float(found.sum()))
    noise = table.variance / rows**2
    if noise * real.size > _DROWNED:
        return Dependence(0.0, 0.0, 0.0, 0.0)
    r = real - np.outer(real.sum(axis=1), real.sum(axis=0)) / max(1e-12, float(real.sum()))
    s = share - np.outer(share.sum(axis=1), share.sum(axis=0))
    q_a, q_b = _margin(real, 1), _margin(real, 0)
    squares_a, tangle_a = _centring(q_a)
    squares_b, tangle_b = _centring(q_b)
    # What noise alone makes of <R, R>: the squares of the centring, and of both margins' noise.
    noise_square = noise * squares_a * squares_b + (noise * real.size) ** 2
    drawn_square = float((q_a * (1 - q_a)).sum() * (q_b * (1 - q_b)).sum()) / rows
    square = float((r**2).sum()) - noise_square - drawn_square
    spread = (
        2 * noise**2 * tangle_a * tangle_b + 2 * float((np.outer(q_a, q_b) ** 2).sum()) / rows**2
    )
    largest = noise * math.sqrt(tangle_a * tangle_b) + float(np.outer(q_a, q_b).max()) / rows
    # The rows' deviation as the noise in R meets it.
    met = s - (q_a @ s)[None, :]
    met = met - (met @ q_b)[:, None]
    margins = np.outer(share.sum(axis=1), share.sum(axis=0))
    centred = r - float((margins * r).sum())
    return Dependence(
        product=float((s * r).sum()),
        square=square,
        variance=noise * float((met**2).sum())
        + float((np.maximum(real, 0.0) * s**2).sum()) / rows
        + float((np.maximum(share, margins) * centred**2).sum()) / max(1.0, sample),
        spread=math.sqrt(spread + 4 * max(0.0, square) * largest),
    )


def _margin(real: F64, axis: int) -> F64:
    positive = np.maximum(real.sum(axis=axis), 0.0)
    return np.asarray(positive / max(1e-12, float(positive.sum())), dtype=np.float64)


def _centring(q: F64) -> tuple[float, float]:
    """Return tr(P P') and tr((P P')^2) of P = I - q 1', which takes margins q off a table."""
    size = len(q)
    outer = np.outer(q, np.ones(size))
    both = np.eye(size) - outer - outer.T + size * np.outer(q, q)
    return float(np.trace(both)), float((both**2).sum())
