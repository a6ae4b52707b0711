"""How far a batch is from its device's counts over all tables together, with its own rows' error.

Half of the L1 distance between a sample and counts is inflated by the sample itself: that is why
a small batch could differ from its device in every column and pass table by table. Here the
direction in which each cell deviates is taken from one part of the rows and the deviation from the
others (cross-fitting, as in two-sample tests by a classifier: Lopez-Paz and Oquab 2017). For any
direction the mean is at most the true distance, so the estimate errs on the side of the batch;
and as every row adds one number over all tables, its error is the spread of these numbers,
whatever relates the tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard.distance import marginal, rows_behind

__all__ = ["MeanDistance", "mean_distance"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: parts of the rows: each is judged in the direction that the others show
_FOLDS = 5

#: total variation that noise may add to a table before the table says nothing
_DROWNED = 0.1

#: a cell counts in full from so many of its own deviations on
_FULL_SIGMAS = 2.0


#: spread of the estimate in units of its rows': the directions are drawn from the rows, too
#: (1.4 and 1.5 were measured for rows far off and rows that are not, see the tests)
_DRAWN = 1.5


class MeanDistance(NamedTuple):
    """Mean total variation over `tables` tables beyond noise and sampling, and its error."""

    value: float
    error: float
    tables: int


def mean_distance(
    codes: I32, own: Sequence[Table], *, weights: F64, rows: float, rows_variance: float
) -> MeanDistance | None:
    """Estimate the mean distance of rows from a device's counts; at most the true one on average.

    Parameters
    ----------
    codes : int32 [n, D]
        Rows.
    own : sequence of Table
        The device's counts: its tables of two columns and all single columns are used.
    weights : float64 [n]
        What each row counts.
    rows, rows_variance : float
        Real rows behind the tables, from `rows_of`.

    Returns
    -------
    MeanDistance or None
        None when there are fewer rows than can be parted, or noise drowns every table.
    """
    n = len(codes)
    if n < 4 * _FOLDS:
        return None
    fold = np.random.default_rng(n).permutation(n) % _FOLDS
    held = np.bincount(fold, weights, minlength=_FOLDS)
    if (held <= 0).any():
        return None
    score, expected = np.zeros(n), np.zeros(_FOLDS)
    bias = noise = 0.0
    used = 0
    for table in _tables(own, codes.shape[1]):
        behind, behind_variance = rows_behind(table, rows, rows_variance)
        real, variance = table.counts.ravel() / behind, table.variance / behind**2
        cell = table.cells(codes)
        likely = np.clip(real, 1 / n, 1.0)
        deviation = np.sqrt(likely / n + variance)
        # Noise in the counts moves direction and reference alike: what that adds at most.
        added = 0.5 * float(np.minimum(variance / deviation / _FULL_SIGMAS, variance**0.5).sum())
        if added > _DROWNED:
            continue
        used += 1
        bias += added
        # All folds at once, [folds, cells]: what the others show is what all do less the fold's.
        counted = np.bincount(fold * len(real) + cell, weights, minlength=_FOLDS * len(real))
        counted = counted.reshape(_FOLDS, -1)
        share = (counted.sum(axis=0) - counted) / (held.sum() - held)[:, None]
        direction = np.clip((share - real) / (_FULL_SIGMAS * deviation), -1.0, 1.0)
        score += 0.5 * direction[fold, cell]
        total = 0.5 * (direction @ real)
        expected += total
        noise += (
            0.25 * variance * float((direction**2).sum())
            + float((total**2).sum()) * behind_variance / behind**2
        ) / _FOLDS
    if not used:
        return None
    difference = (score - expected[fold]) / used
    share = weights / weights.sum()
    value = float((share * difference).sum())
    # The noise of single columns and of pairs with them is the same: added, not squared.
    error = float((share**2 * (difference - value) ** 2).sum()) + noise / used
    return MeanDistance(value - bias / used, _DRAWN * math.sqrt(error), used)


def _tables(own: Sequence[Table], columns: int) -> list[Table]:
    single = [table for d in range(columns) if (table := marginal(own, (d,))) is not None]
    return single + [table for table in own if len(table.columns) == 2]
