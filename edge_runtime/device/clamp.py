"""Condition columns of synthetic rows, from the device's own NOISY counts.

Under label skew a locally trained network is still confidently wrong about labels its device never
saw: the label's own logits move too slowly. So the leading condition columns are not sampled but
set, in proportion to counts that were released with noise and paid for. Everything here works on
such releases alone and costs no privacy of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["NoisyCounts", "clamp_columns", "clean", "combine", "noisy_rows"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: counts below this many standard deviations of their noise count as unseen: a label that the
#: device never saw passes it once in 44 times
_THRESHOLD_SIGMAS = 2.0


class NoisyCounts(NamedTuple):
    """Counts that were released, and the standard deviation of their noise (0: exact)."""

    counts: F64
    sigma: float


def combine(estimates: Sequence[NoisyCounts]) -> NoisyCounts:
    """Weigh several releases of the same counts by the inverse of their variance.

    Parameters
    ----------
    estimates : sequence of NoisyCounts
        Equal shapes, newest first; an exact one wins.
    """
    for estimate in estimates:
        if estimate.sigma == 0.0:
            return estimate
    weights = np.array([estimate.sigma**-2 for estimate in estimates])
    total = weights.sum()
    counts = sum(
        (weight / total) * estimate.counts
        for weight, estimate in zip(weights, estimates, strict=True)
    )
    return NoisyCounts(np.asarray(counts, dtype=np.float64), float(total**-0.5))


def clean(noisy: NoisyCounts) -> F64:
    """Drop what is most likely noise alone and return shares that sum to 1.

    Where the threshold would remove half of all rows or more, as with many rare categories, the
    counts are only cut at zero; where nothing is left, all codes count alike.
    """
    positive = np.maximum(noisy.counts, 0.0)
    total = positive.sum()
    if total <= 0.0:
        return np.full(positive.shape, 1.0 / positive.size)
    seen = np.where(noisy.counts >= _THRESHOLD_SIGMAS * noisy.sigma, positive, 0.0)
    chosen = seen if 2.0 * seen.sum() > total else positive
    return np.asarray(chosen / chosen.sum(), dtype=np.float64)


def noisy_rows(releases: Sequence[tuple[Sequence[npt.NDArray[np.int64]], float]]) -> float:
    """Estimate how many rows a device has, from histograms it has released.

    Every row adds 1 to one cell of each column, so each column's sum estimates the rows with a
    variance of cells * sigma^2; columns and releases are weighed by the inverse of it. An older
    release that disagrees by more than 4 standard deviations is out of date and left out.

    Parameters
    ----------
    releases : sequence of (histograms, sigma)
        Newest first. `histograms` holds one array of counts per column.

    Returns
    -------
    float
        At least 1.
    """
    rows, variance = 0.0, float("inf")
    for histograms, sigma in releases:
        weights = np.array([1.0 / histogram.size for histogram in histograms])
        sums = np.array([float(histogram.sum()) for histogram in histograms])
        estimate = float(np.average(sums, weights=weights))
        own = sigma**2 / float(weights.sum())
        if variance == float("inf"):
            rows, variance = estimate, own
        elif own > 0.0 and abs(estimate - rows) <= 4.0 * (own + variance) ** 0.5:
            share = own / (own + variance)
            rows = share * rows + (1.0 - share) * estimate
            variance = variance * own / (own + variance)
    return max(1.0, rows)


def clamp_columns(
    *,
    rows: int,
    one_way: Sequence[NoisyCounts],
    pairs: Mapping[tuple[int, int], NoisyCounts],
    mode: Literal["own", "balanced"],
    rng: np.random.Generator,
) -> dict[int, I32]:
    """Codes of the leading condition columns for a number of synthetic rows.

    The first column follows its noisy histogram, each later one its noisy pair counts with the
    column before it. The first column without such counts and all behind it are left to the
    network, which conditions on those before.

    Parameters
    ----------
    rows : int
        Synthetic rows.
    one_way : sequence of NoisyCounts
        Noisy histogram of each condition column, F64 [K_c].
    pairs : mapping of (int, int) to NoisyCounts
        Noisy pair counts, F64 [K_a, K_b].
    mode : {"own", "balanced"}
        In proportion to the counts, or evenly over the codes that were seen.
    rng : numpy Generator
        Public randomness: orders the rows.

    Returns
    -------
    dict of int to I32 [rows]
        Codes by column; empty without condition columns.
    """
    if not one_way:
        return {}
    joint = _shares(one_way[0], mode)[:, None]
    # `cells[k, c]` is the code of column c in cell k of the joint distribution.
    cells = np.arange(joint.size, dtype=np.int32)[:, None]
    shares = joint.ravel()
    for column in range(1, len(one_way)):
        pair = pairs.get((column - 1, column))
        if pair is None:
            break
        given = np.stack([_shares(NoisyCounts(row, pair.sigma), mode) for row in pair.counts])
        cardinality = given.shape[1]
        shares = (shares[:, None] * given[cells[:, -1]]).ravel()
        codes = np.tile(np.arange(cardinality, dtype=np.int32), cells.shape[0])[:, None]
        cells = np.hstack([np.repeat(cells, cardinality, axis=0), codes])
        keep = shares > 0.0
        shares, cells = shares[keep], cells[keep]
    chosen = cells[_apportion(shares, rows)]
    rng.shuffle(chosen, axis=0)
    return {column: np.ascontiguousarray(chosen[:, column]) for column in range(chosen.shape[1])}


def _shares(noisy: NoisyCounts, mode: Literal["own", "balanced"]) -> F64:
    shares = clean(noisy)
    if mode == "balanced":
        shares = (shares > 0.0).astype(np.float64)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _apportion(shares: F64, rows: int) -> npt.NDArray[np.intp]:
    """Cell of each row, by largest remainder: less noise than drawing the cells at random."""
    exact = shares / shares.sum() * rows
    counts = np.floor(exact).astype(np.int64)
    rest = rows - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return np.repeat(np.arange(shares.size), counts)
