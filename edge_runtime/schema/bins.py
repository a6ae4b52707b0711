"""Where a histogram is cut into bins: heavy values alone, the rest in pieces of equal weight."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

__all__ = ["SLOTS", "bin_weights", "inner_points", "partition"]

F64 = NDArray[np.float64]

#: equally likely places inside a bin of exact values: 1/512 of a bin is 1/16,384 of the rows
SLOTS = 512

#: share of a bin's width in weight that depends on the distance from the middle instead of on
#: rows. Correlations live in the tails (late flights, failing machines), where few rows are; with
#: equal rows per bin a whole tail falls into one bin, and what happens inside a bin is forgotten.
_TAIL_SHARE = 0.3


def bin_weights(mass: F64, positions: F64) -> F64:
    """Return the weights by which cells are cut: rows, and rows times distance from the median.

    Parameters
    ----------
    mass : float64 ndarray
        [cells], rows in each cell, not negative, not all zero.
    positions : float64 ndarray
        [cells], increasing places on the number line.

    Returns
    -------
    float64 ndarray
        [cells], summing to 1.
    """
    share: F64 = mass / mass.sum()
    median = positions[int(np.searchsorted(np.cumsum(share), 0.5))]
    spread = share * np.abs(positions - median)
    total = spread.sum()
    if total <= 0:
        return share
    weights: F64 = (1 - _TAIL_SHARE) * share + _TAIL_SHARE * spread / total
    return weights


def partition(weights: F64, max_bins: int) -> NDArray[np.int64]:
    """Cut cells into at most `max_bins` runs.

    A cell that would fill a bin by itself gets one, so that a frequent value (zero rain, a rounded
    time) is a code of its own; the cells between such atoms are cut into runs of equal weight.

    Parameters
    ----------
    weights : float64 ndarray
        [cells], not negative, not all zero.
    max_bins : int
        At least 1.

    Returns
    -------
    int64 ndarray
        [bins + 1] increasing borders, from 0 to cells; every run has positive weight.
    """
    atoms = _atoms(weights, max_bins)
    marks = np.flatnonzero(atoms)
    borders = np.unique(np.concatenate([[0], marks, marks + 1, [len(weights)]]))
    borders = _join_light(weights, borders, atoms, max_bins)
    runs = list(itertools.pairwise(borders))
    cells = np.add.reduceat(weights > 0, borders[:-1])
    share = _allot(np.add.reduceat(weights, borders[:-1]), cells, max_bins)
    cuts: list[int] = [0]
    for (start, stop), pieces in zip(runs, share, strict=True):
        cuts.extend(_equal(weights[start:stop], int(pieces), int(start)))
        cuts.append(int(stop))
    return np.unique(np.array(cuts, np.int64))


def _atoms(weights: F64, max_bins: int) -> NDArray[np.bool_]:
    """Cells that weigh at least as much as a bin of the rest would."""
    atoms = np.zeros(len(weights), np.bool_)
    while int(atoms.sum()) < max_bins:
        rest = weights[~atoms].sum() / (max_bins - atoms.sum())
        grown = weights >= max(rest, np.finfo(np.float64).tiny)
        if (grown | atoms).sum() > max_bins or not (grown & ~atoms).any():
            break
        atoms |= grown
    return atoms


def _join_light(
    weights: F64, borders: NDArray[np.int64], atoms: NDArray[np.bool_], max_bins: int
) -> NDArray[np.int64]:
    """Give light stretches between atoms to a neighbour, so that no bin is wasted on them."""
    target = weights.sum() / max_bins
    while len(borders) > 2:
        runs = np.add.reduceat(weights, borders[:-1])
        light = np.where(atoms[borders[:-1]] & (np.diff(borders) == 1), np.inf, runs)
        if len(runs) > max_bins and not np.isfinite(light).any():
            light = runs
        index = int(light.argmin())
        if len(runs) <= max_bins and light[index] >= target / 4:
            break
        left = runs[index - 1] if index > 0 else np.inf
        right = runs[index + 1] if index + 1 < len(runs) else np.inf
        borders = np.delete(borders, index if left <= right else index + 1)
    return borders


def _allot(runs: F64, cells: NDArray[np.int64], max_bins: int) -> NDArray[np.int64]:
    """Bins per run: one each, then always to the run with most weight per bin."""
    share = np.ones(len(runs), np.int64)
    for _ in range(max_bins - len(runs)):
        load = np.where(share < cells, runs / share, 0.0)
        if load.max() <= 0:
            break
        share[int(load.argmax())] += 1
    return share


def _equal(weights: F64, pieces: int, start: int) -> list[int]:
    """Inner borders of at most `pieces` runs of about equal positive weight."""
    total = np.cumsum(weights)
    if pieces < 2:
        return []
    targets = np.arange(1, pieces) * total[-1] / pieces
    # the border nearest to each target: behind or before the cell that crosses it
    after = np.searchsorted(total, targets)
    before = np.where(after > 0, total[after - 1], 0.0)
    cuts = np.unique(np.where(targets - before < total[after] - targets, after, after + 1))
    found: list[int] = []
    last = 0.0
    for cut in cuts.tolist():
        if 0 < cut < len(weights) and last < total[cut - 1] < total[-1]:
            found.append(start + cut)
            last = float(total[cut - 1])
    return found


def inner_points(values: F64, mass: F64, slots: int = SLOTS) -> F64:
    """Equally likely values that stand for a bin of exact values.

    Parameters
    ----------
    values : float64 ndarray
        [cells], increasing.
    mass : float64 ndarray
        [cells], not negative, not all zero.
    slots : int
        How many places.

    Returns
    -------
    float64 ndarray
        [slots], the inverse of the distribution function at the middles of equal steps, so that
        every value keeps its share to within one slot.
    """
    total = np.cumsum(mass)
    middles = (np.arange(slots) + 0.5) * total[-1] / slots
    points: F64 = values[np.searchsorted(total, middles)]
    return points
