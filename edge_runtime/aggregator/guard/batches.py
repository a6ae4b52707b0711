"""A batch of synthetic rows, held against its own device's noisy counts of real rows.

The device itself is the reference, not the fleet: a device that knows one class only is normal.
Where the plan made devices balance their conditions, the rows are first weighed back to the
device's own conditions, so that what is compared is how the other columns follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard.distance import (
    Distance,
    compare,
    counts_of,
    dependence,
    marginal,
    rows_behind,
    rows_of,
)
from edge_runtime.aggregator.guard.marginals import mean_distance
from edge_runtime.reception.hashing import row_counts

__all__ = ["BatchLimits", "Finding", "condition_weights", "judge_batch"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: rows below which a batch says nothing about its diversity
_FEW_ROWS = 20

#: a device whose number of rows is not known better than this many deviations cannot be judged
_KNOWN_ROWS_SIGMAS = 4.0

#: a row's weight towards its device's own conditions, at most, in units of the mean
_MOST_WEIGHT = 20.0


class BatchLimits(NamedTuple):
    """What is allowed beyond noise.

    Parameters
    ----------
    false_alarms : float
        Probability at which a batch that is within the misfit is flagged nevertheless; shared out
        over all tests of the batch (Bonferroni).
    misfit : float
        Total variation by which a local generator may miss a table of its own device: trained
        with noise on few rows it is biased.
    mean_misfit : float
        The same for the mean over all columns and pairs, where single misses even out.
    dependence : float
        Share of the dependence between conditions and other columns that must be kept.
    diversity : float
        Factor by which two rows of the batch may be alike more often than the counts allow.
    """

    false_alarms: float = 1e-4
    misfit: float = 0.35
    mean_misfit: float = 0.2
    dependence: float = 0.2
    diversity: float = 2.0


class Finding(NamedTuple):
    """Something wrong: `kind` for programs, `text` for people, with figures.

    Kinds: "shape" (one table), "shapes" (their mean), "dependence", "diversity", "relations",
    "copy".

    `value` was found, `expected` is what the reference says, `allowed` the limit it crossed.
    """

    kind: str
    text: str
    value: float
    expected: float
    allowed: float


def judge_batch(
    codes: I32,
    own: Sequence[Table],
    *,
    names: Sequence[str],
    conditions: Sequence[int] = (),
    clamped_to_own: bool = True,
    limits: BatchLimits | None = None,
    label: Callable[[int, int], str] | None = None,
) -> list[Finding]:
    """Judge one batch.

    Parameters
    ----------
    codes : int32 [n, D]
        The batch.
    own : sequence of Table
        The noisy counts of real rows that its device released.
    names : sequence of str
        Column names.
    conditions : sequence of int
        Condition columns, leading.
    clamped_to_own : bool
        Whether conditions were to follow the device's own histogram; else they are weighed back.
    limits : BatchLimits, optional
        What is allowed.
    label : callable, optional
        Code as text, from (column, code).

    Returns
    -------
    list of Finding
        Empty when nothing is wrong, or when the counts are too noisy to tell.
    """
    limits = limits or BatchLimits()
    known = rows_of(own)
    rows, rows_variance = known
    if not len(codes) or rows < _KNOWN_ROWS_SIGMAS * math.sqrt(rows_variance):
        return []
    weights, sample, extra = np.ones(len(codes)), float(len(codes)), 0.0
    used = list(own)
    if not clamped_to_own and conditions:
        balanced = condition_weights(codes, own, conditions)
        if balanced is None:
            used = []
        else:
            weights, extra = balanced
            sample = float(weights.sum() ** 2 / max(1e-12, float((weights**2).sum())))
    tests = len(used) + 3
    p = limits.false_alarms / tests
    distances = [
        compare(
            counts_of(codes, table, weights),
            table,
            sample=sample,
            rows=rows,
            rows_variance=rows_variance,
        )
        for table in used
    ]
    found = _shapes(distances, names, p=p, extra=extra, limits=limits)
    if used:
        everywhere = _shapes_together(
            codes, weights, used, rows=known, p=p, extra=extra, limits=limits
        )
        found += [everywhere] if everywhere is not None else []
    unrelated = _unrelated(
        codes, weights, own, names, conditions, rows=known, sample=sample, p=p, limits=limits
    )
    if unrelated is not None:
        found.append(unrelated)
    alike = _diversity(codes, own, names, rows=known, p=p, limits=limits, conditions=conditions)
    if alike is not None:
        if label is not None:
            alike = alike._replace(text=f"{alike.text}; {_commonest(codes, names, label)}")
        # First: nothing says more to a person.
        found.insert(0, alike)
    return found


def condition_weights(
    codes: I32, own: Sequence[Table], conditions: Sequence[int]
) -> tuple[F64, float] | None:
    """Weigh rows so that their condition columns follow the device's own counts.

    Parameters
    ----------
    codes : int32 [n, D]
        Rows.
    own : sequence of Table
        The device's counts.
    conditions : sequence of int
        Condition columns; the longest leading part that was counted together is used.

    Returns
    -------
    weights : float64 [n], mean 1
    error : float
        Total variation that the noise of these counts adds to any comparison of weighed rows.
        None instead of both when no condition was counted or none of the rows' conditions is
        among the device's.
    """
    for length in range(len(conditions), 0, -1):
        table = marginal(own, tuple(conditions[:length]))
        if table is not None:
            break
    else:
        return None
    cell = table.cells(codes)
    have = np.bincount(cell, minlength=table.counts.size) / len(codes)
    positive = np.maximum(table.counts.ravel(), 0.0)
    want = positive / max(1.0, float(positive.sum()))
    factor = np.divide(want, have, out=np.zeros_like(want), where=have > 0)
    weights = np.minimum(factor[cell], _MOST_WEIGHT)
    if weights.sum() <= 0:
        return None
    seen = int(np.count_nonzero(have))
    error = 0.5 * seen * math.sqrt(table.variance) / max(1.0, float(positive.sum()))
    return weights / weights.mean(), min(1.0, error)


def _shapes(
    distances: Sequence[Distance],
    names: Sequence[str],
    *,
    p: float,
    extra: float,
    limits: BatchLimits,
) -> list[Finding]:
    """Tables that are further from the device's counts than misfit and noise explain."""
    found = []
    for distance in distances:
        allowed = limits.misfit + extra + distance.explained(p)
        if distance.value > allowed:
            what = " and ".join(names[d] for d in distance.columns)
            found.append(
                Finding(
                    "shape",
                    f"{what}: {distance.value:.2f} of the rows differ from its device's own "
                    f"counts, at most {allowed:.2f} may ({limits.misfit:g} by a weak generator, "
                    f"{allowed - limits.misfit:.2f} by noise and sampling)",
                    distance.value,
                    0.0,
                    allowed,
                )
            )
    return found


def _shapes_together(
    codes: I32,
    weights: F64,
    own: Sequence[Table],
    *,
    rows: tuple[float, float],
    p: float,
    extra: float,
    limits: BatchLimits,
) -> Finding | None:
    """Whether all tables together are further from the counts than misfit and noise explain."""
    mean = mean_distance(codes, own, weights=weights, rows=rows[0], rows_variance=rows[1])
    if mean is None:
        return None
    spread = extra + NormalDist().inv_cdf(1 - p) * mean.error
    allowed = limits.mean_misfit + spread
    if mean.value <= allowed:
        return None
    return Finding(
        "shapes",
        f"over all {mean.tables} columns and pairs {mean.value:.2f} of the rows differ from its "
        f"device's own counts on average, at most {allowed:.2f} may ({limits.mean_misfit:g} by a "
        f"weak generator, {spread:.2f} by noise and sampling)",
        mean.value,
        0.0,
        allowed,
    )


def _unrelated(
    codes: I32,
    weights: F64,
    own: Sequence[Table],
    names: Sequence[str],
    conditions: Sequence[int],
    *,
    rows: tuple[float, float],
    sample: float,
    p: float,
    limits: BatchLimits,
) -> Finding | None:
    """Whether conditions and other columns have lost what relates them in the device's counts.

    Shuffled columns and exchanged labels can hide from single tables in what a weak generator is
    allowed to miss; their sum over all columns cannot.
    """
    product = square = variance = 0.0
    spread = 0.0
    for table in own:
        if len(table.columns) != 2 or not set(table.columns) & set(conditions):
            continue
        found = counts_of(codes, table, weights).reshape(table.counts.shape)
        one = dependence(found, table, sample=sample, rows=rows_behind(table, *rows)[0])
        product, square = product + one.product, square + one.square
        variance, spread = variance + one.variance, spread + one.spread**2
    # An uncertain denominator would make any ratio; one condition alone makes it zero.
    if square <= 0 or square < 5 * math.sqrt(spread):
        return None
    value, error = (
        product / square,
        math.sqrt(variance + spread * min(1.0, (product / square) ** 2)) / square,
    )
    z = NormalDist().inv_cdf(1 - p)
    if value + z * error >= limits.dependence:
        return None
    what = ", ".join(names[d] for d in conditions)
    return Finding(
        "dependence",
        f"how the other columns follow {what} is kept to {value:+z.0%} of what its device's counts "
        f"show (0 % is unrelated, negative exchanged), at least {limits.dependence:.0%} is "
        f"expected; noise and sampling explain {z * error:.0%}",
        value,
        1.0,
        limits.dependence,
    )


def _diversity(
    codes: I32,
    own: Sequence[Table],
    names: Sequence[str],
    *,
    rows: tuple[float, float],
    p: float,
    limits: BatchLimits,
    conditions: Sequence[int],
) -> Finding | None:
    """Whether two rows are alike more often than any table of the device allows.

    Rows that are alike are alike in every column, so the collision probability (Simpson 1949) of
    rows is at most that of each table. Its estimate from noisy counts is unbiased once the
    noise's own squares are taken off.
    """
    n = len(codes)
    if n < _FEW_ROWS:
        return None
    counts = row_counts(codes).astype(np.float64)
    value = float((counts * (counts - 1)).sum()) / (n * (n - 1))
    share = counts / n
    # Variance of the pair statistic: its pairs, and the spread of the rows' own commonness.
    spread = 4 * max(0.0, float((share**3).sum()) - value**2) / n + 2 * value / n**2
    z = math.sqrt(2 * math.log(1 / p))
    least, of = math.inf, ""
    for table in own:
        behind = rows_behind(table, *rows)[0]
        real = table.counts.ravel() / behind
        noise = table.variance / behind**2
        squares = float((real**2).sum()) - noise * real.size
        error = math.sqrt(4 * noise * max(squares, 0.0) + 2 * noise**2 * real.size)
        most = max(squares, 1 / real.size) + z * error
        # A batch with fewer conditions than its device has is less varied by right.
        asked = [d for d in table.columns if d in conditions]
        if asked:
            most *= max(
                1.0, _collisions(codes[:, asked]) / max(1e-9, _own_collisions(table, asked))
            )
        if most < least:
            least, of = most, " and ".join(names[d] for d in table.columns)
    allowed = limits.diversity * least
    if value - z * math.sqrt(spread) <= allowed:
        return None
    return Finding(
        "diversity",
        f"{len(counts)} different rows among {n}: two of them are alike with probability "
        f"{value:.3f}, its device's counts of {of} allow {least:.3f}",
        value,
        least,
        allowed,
    )


def _collisions(codes: I32) -> float:
    counts = row_counts(codes)
    return float(((counts / len(codes)) ** 2).sum())


def _own_collisions(table: Table, columns: Sequence[int]) -> float:
    part = marginal([table], columns)
    assert part is not None
    share = np.maximum(part.counts, 0.0) / max(1.0, float(np.maximum(part.counts, 0.0).sum()))
    return float((share**2).sum())


def _commonest(codes: I32, names: Sequence[str], label: Callable[[int, int], str]) -> str:
    rows, counts = np.unique(codes, axis=0, return_counts=True)
    row = rows[int(counts.argmax())]
    shown = ", ".join(f"{names[d]}={label(d, int(row[d]))}" for d in range(min(4, len(row))))
    return f"the commonest, {counts.max()} times, begins {shown}"
