"""Condition columns of synthetic rows, from the device's own NOISY counts.

Under label skew a locally trained network is still confidently wrong about labels its device never
saw: the label's own logits move too slowly. So the leading condition columns are not sampled but
set, in proportion to counts that were released with noise and paid for. A code that these counts
do not support is never set, and where they support none there are no rows. Everything here works
on such releases alone and costs no privacy of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.schema.denoise import denoise

__all__ = ["Clamp", "Condition", "NoisyCounts", "clamp_columns", "combine", "noisy_rows", "support"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

Clamp = Literal["own", "balanced", "wish"]

#: codes a device never saw that one of its histograms supports all the same, on average
_FALSE_SUPPORT = 0.05


class NoisyCounts(NamedTuple):
    """Counts that were released, and the standard deviation of their noise (0: exact)."""

    counts: F64
    sigma: float


class Condition(NamedTuple):
    """What is known about one condition column.

    `own` is its histogram, F64 [K]; `joint` its counts together with the columns `given`, F64
    [K_a, ..., K], None for the first column.
    """

    own: NoisyCounts
    given: tuple[int, ...] = ()
    joint: NoisyCounts | None = None


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


def support(noisy: NoisyCounts) -> npt.NDArray[np.bool_]:
    """Say which counts are more than noise: bool in the counts' shape.

    The threshold grows with the number of cells, so that on average one histogram in twenty
    supports a code that was never seen: 1.96 standard deviations at 2 cells, 2.6 at 10, 3.3 at
    100.
    """
    if noisy.sigma == 0.0:
        return np.asarray(noisy.counts > 0.0)
    from statistics import NormalDist  # noqa: PLC0415 - not held while training

    level = NormalDist().inv_cdf(1.0 - _FALSE_SUPPORT / noisy.counts.size)
    return np.asarray(noisy.counts >= level * noisy.sigma)


def noisy_rows(releases: Sequence[tuple[Sequence[F64], float]]) -> float:
    """Estimate how many rows a device has, from tables of counts it has released.

    Every row adds 1 to one cell of each table, so each table's sum estimates the rows with a
    variance of cells * sigma^2; tables and releases are weighed by the inverse of it. An older
    release that disagrees by more than 4 standard deviations is out of date and left out.

    Parameters
    ----------
    releases : sequence of (tables, sigma)
        Newest first. `tables` holds one array of counts per table.

    Returns
    -------
    float
        At least 1.
    """
    rows, variance = 0.0, float("inf")
    for tables, sigma in releases:
        weights = np.array([1.0 / table.size for table in tables])
        sums = np.array([float(table.sum()) for table in tables])
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
    conditions: Sequence[Condition],
    mode: Clamp,
    rng: np.random.Generator,
    wish: Sequence[float] = (),
) -> dict[int, I32] | None:
    """Codes of the leading condition columns for a number of synthetic rows.

    The first column follows its noisy histogram, each later one its noisy counts given the columns
    before it, in both cases over the codes that its own histogram supports.

    Parameters
    ----------
    rows : int
        Synthetic rows.
    conditions : sequence of Condition
        What is known about columns 0, 1, ...
    mode : {"own", "balanced", "wish"}
        In proportion to the counts; evenly over the codes, and combinations of codes, that were
        seen; or the first column by `wish` and later ones in proportion.
    rng : numpy Generator
        Public randomness: draws codes and orders the rows.
    wish : sequence of float [K]
        For "wish": weights of the codes of the first column.

    Returns
    -------
    dict of int to I32 [rows], or None
        Codes by column; empty without condition columns; None where no code is supported, or none
        of those that are wished for.
    """
    if not conditions:
        return {}
    seen = [support(condition.own) for condition in conditions]
    first = _first_shares(conditions[0].own, seen[0], mode, wish)
    if first.sum() <= 0.0 or not all(codes.any() for codes in seen):
        return None
    chosen = np.empty((rows, len(conditions)), dtype=np.int32)
    chosen[:, 0] = _draw(first, rows, rng)
    for column in range(1, len(conditions)):
        prefixes, group = np.unique(chosen[:, :column], axis=0, return_inverse=True)
        for index, prefix in enumerate(prefixes):
            members = np.flatnonzero(group.reshape(-1) == index)
            shares = _later_shares(conditions[column], prefix, seen[column], mode)
            # Shuffled: the drawn codes come in order, and rows already differ in other columns.
            chosen[rng.permutation(members), column] = _draw(shares, len(members), rng)
    rng.shuffle(chosen, axis=0)
    return {column: np.ascontiguousarray(chosen[:, column]) for column in range(chosen.shape[1])}


def _first_shares(
    own: NoisyCounts, seen: npt.NDArray[np.bool_], mode: Clamp, wish: Sequence[float]
) -> F64:
    match mode:
        case "own":
            return np.where(seen, own.counts, 0.0)
        case "balanced":
            return np.asarray(seen, dtype=np.float64)
    return np.where(seen, np.asarray(wish, dtype=np.float64), 0.0)


def _later_shares(
    condition: Condition, prefix: I32, seen: npt.NDArray[np.bool_], mode: Clamp
) -> F64:
    """Shares of a column's codes given those of the columns before it, F64 [K]."""
    assert condition.joint is not None
    place = tuple(prefix[column] for column in condition.given)
    if mode == "balanced":
        together = support(condition.joint)[place] & seen
        if together.any():
            return np.asarray(together, dtype=np.float64)
    counts = np.where(seen, condition.joint.counts[place], 0.0)
    total = float(counts.sum())
    if total > 0.0:
        # Not a threshold: where each combination is rare it would leave the largest alone.
        sigma = condition.joint.sigma
        likely = np.where(seen, denoise(counts, sigma=sigma, rows=total, line=0), 0.0)
        if likely.sum() > 0.0:
            return np.asarray(likely, dtype=np.float64)
    return np.where(seen, condition.own.counts, 0.0)


def _draw(shares: F64, rows: int, rng: np.random.Generator) -> I32:
    """Draw codes in proportion to shares, in ascending order: systematic sampling.

    Each code comes as often as expected, rounded up or down: less noise than independent draws.
    """
    edges = np.cumsum(shares) / shares.sum()
    points = (np.arange(rows) + rng.random()) / max(1, rows)
    codes = np.searchsorted(edges, points, side="right")
    # Rounding may leave the last edge below 1: never beyond the last code that has a share.
    last = np.flatnonzero(shares)[-1]
    return np.asarray(np.minimum(codes, last), dtype=np.int32)
