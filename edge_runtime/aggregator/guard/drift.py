"""Whether the population behind the anchor has moved: devices' releases held against earlier ones.

Drift must not be mistaken for collapse. Collapse changes the generator while the real rows stay;
drift changes the real rows, and a healthy generator follows. So successive noisy counts of the same
devices are tested against each other: a chi-square test of shape in which each cell has the
variance of both noises and of two independent samples. Devices that keep most of their rows
between rounds differ by less: the test is then conservative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import DeviceCounts

__all__ = ["Drift", "chi_square_tail", "find_drift"]

F64 = npt.NDArray[np.float64]

#: a fleet whose rows are not known better than this many deviations is not tested
_KNOWN_SIGMAS = 4.0

#: cells expected to hold fewer rows are merged: the test's distribution is a large-sample one
_LEAST_EXPECTED = 10.0


class Drift(NamedTuple):
    """A table that has changed in `round`.

    `value` is the total variation between before and after, less what noise and sampling add;
    `p_value` the chance of such a change without drift.
    """

    columns: tuple[int, ...]
    round: int
    value: float
    p_value: float
    devices: int


def find_drift(
    releases: Sequence[DeviceCounts],
    *,
    round_number: int,
    since_round: int = 0,
    false_alarms: float = 1e-4,
    least: float = 0.03,
) -> list[Drift]:
    """Find tables in which a round differs from the rounds before it.

    Parameters
    ----------
    releases : sequence of DeviceCounts
        Of all rounds.
    round_number : int
        The round in question.
    since_round : int
        Rounds before it are left out, as after an earlier drift.
    false_alarms : float
        Probability of finding anything without a change, over all tables (Bonferroni).
    least : float
        Total variation below which a change is no drift.

    Returns
    -------
    list of Drift
        The largest first; empty when nothing changed or nothing can be compared.
    """
    now = [r for r in releases if r.round == round_number]
    before = [r for r in releases if since_round <= r.round < round_number]
    keys = sorted(
        {key for r in now for key in r.tables} & {key for r in before for key in r.tables}
    )
    found = []
    for key in keys:
        pairs = _matched(now, before, key)
        if not pairs:
            continue
        drift = _test(key, pairs, round_number)
        if drift is not None and drift.p_value < false_alarms / len(keys) and drift.value > least:
            found.append(drift)
    return sorted(found, key=lambda drift: -drift.value)


class _Side(NamedTuple):
    """Counts of one device at one time, and the variance of the noise in each."""

    counts: F64
    variance: float


def _matched(
    now: Sequence[DeviceCounts], before: Sequence[DeviceCounts], key: tuple[int, ...]
) -> list[tuple[_Side, _Side]]:
    """Each device's counts after and before (the mean of its rounds), where it has both."""
    pairs = []
    for release in now:
        own = [r for r in before if r.device == release.device and key in r.tables]
        if key not in release.tables or not own:
            continue
        mean = np.mean([r.tables[key] for r in own], axis=0)
        variance = sum(r.sigma**2 for r in own) / len(own) ** 2
        counts = np.asarray(release.tables[key], np.float64)
        pairs.append((_Side(counts.ravel(), release.sigma**2), _Side(mean.ravel(), variance)))
    return pairs


def _test(
    key: tuple[int, ...], pairs: Sequence[tuple[_Side, _Side]], round_number: int
) -> Drift | None:
    """Compare the sums over devices: a device that joins or leaves is no drift."""
    # Every device weighs the same on both sides: one that grew faster is no drift either.
    after, old, after_noise, old_noise, sample = _sums(pairs)
    rows = float(after.sum())
    noise = math.sqrt(max(after_noise, old_noise) * after.size)
    if rows < _KNOWN_SIGMAS * noise or rows < _LEAST_EXPECTED:
        return None
    shares = np.stack([after / rows, old / max(1.0, float(old.sum()))])
    middle = np.clip(shares.mean(axis=0), 0.0, 1.0)
    order = np.argsort(middle)[::-1]
    # Cells that hold too little, or that noise drowns, are one.
    least = max(_LEAST_EXPECTED, 2 * math.sqrt(after_noise + old_noise))
    keep = order[middle[order] * rows >= least]
    rest = np.setdiff1d(order, keep)
    merged = np.concatenate([shares[:, keep], shares[:, rest].sum(axis=1, keepdims=True)], axis=1)
    cells = np.append(np.ones(len(keep)), len(rest))
    if not len(rest):
        merged, cells = merged[:, :-1], cells[:-1]
    if len(cells) < 2:
        return None
    p = np.clip(merged.mean(axis=0), 0.0, 1.0)
    old_rows = max(1.0, float(old.sum()))
    variance = p * (1 - p) * (1 / rows + 1 / sample) + cells * (
        after_noise / rows**2 + old_noise / old_rows**2
    )
    difference = merged[0] - merged[1]
    statistic = float((difference**2 / np.maximum(variance, 1e-300)).sum())
    explained = 0.5 * math.sqrt(2 / math.pi) * float(np.sqrt(variance).sum())
    return Drift(
        columns=key,
        round=round_number,
        value=max(0.0, 0.5 * float(np.abs(difference).sum()) - explained),
        p_value=chi_square_tail(statistic, len(cells)),
        devices=len(pairs),
    )


def _sums(
    pairs: Sequence[tuple[_Side, _Side]],
) -> tuple[F64, F64, float, float, float]:
    """Sum both sides over devices, the old side scaled to each device's rows of now.

    Also the noise in each and the effective number of rows behind the old side (Kish 1965).
    """
    after, old = np.zeros_like(pairs[0][0].counts), np.zeros_like(pairs[0][0].counts)
    after_noise = old_noise = squares = 0.0
    for new, before in pairs:
        rows, rows_before = float(new.counts.sum()), float(before.counts.sum())
        error = math.sqrt(before.variance * before.counts.size)
        known = rows_before > _KNOWN_SIGMAS * error and rows > 0
        scale = min(4.0, max(0.25, rows / rows_before)) if known else 1.0
        after += new.counts
        old += scale * before.counts
        after_noise += new.variance
        old_noise += scale**2 * before.variance
        squares += scale**2 * max(1.0, rows_before)
    return after, old, after_noise, old_noise, max(1.0, float(old.sum()) ** 2 / squares)


def chi_square_tail(statistic: float, cells: int) -> float:
    """Probability that a chi-square variable of `cells` degrees exceeds a value.

    By the cube-root transformation of Wilson and Hilferty 1931.
    """
    if statistic <= 0:
        return 1.0
    scale = 2 / (9 * cells)
    z = ((statistic / cells) ** (1 / 3) - (1 - scale)) / math.sqrt(scale)
    return 1.0 - NormalDist().cdf(z)
