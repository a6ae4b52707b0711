"""Merged moments: where the scores of a condition's rows lie, and how they vary together.

Together they are one normal distribution of scores for each condition, which is what rows drawn
from the anchor follow where single tables would leave columns independent (a Gaussian copula given
the condition). Under noise it is shrunk three times: means towards zero, most where rows lie close
together; each condition's covariance towards that of all conditions; and its least eigenvalues up
to where noise ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import DeviceCounts, average_by_variance, one_way_of, supported
from edge_runtime.messages import MomentsRequest

__all__ = ["DeviceMoments", "Means", "Moments", "merge_means", "merge_moments"]

F64 = npt.NDArray[np.float64]

#: Least eigenvalue of a covariance of scores (of variance 1), in standard deviations of an entry's
#: noise: eigenvalues below are noise and would make a direction count that says nothing.
_FLOOR_SIGMAS = 4.0
_LEAST_FLOOR, _MOST_FLOOR = 0.02, 0.5
#: share of a column's variance that at least stays within conditions
_LEAST_WITHIN = 0.25


class DeviceMoments(NamedTuple):
    """One device's noisy sums of one round, in scores and products of scores.

    `sums` is float64 [groups, width], `rows` the noisy rows of each group [groups]; `sigma` and
    `row_sigma` are the standard deviations of the noise in each.
    """

    device: str
    round: int
    request: MomentsRequest
    sums: F64
    rows: F64
    sigma: float
    row_sigma: float

    @property
    def counts(self) -> DeviceCounts | None:
        """The rows as a table of the condition; None where conditions were summed together."""
        if self.request.groups == 1:
            return None
        table: dict[tuple[int, ...], F64] = {(self.request.given,): self.rows}
        return DeviceCounts(self.device, self.round, table, self.row_sigma)


class Means(NamedTuple):
    """Merged sums of scores.

    `measured` is float64 [K, d], by code of the condition, and `centres` the same shrunk towards
    zero; `rows` [K] the noisy rows behind each, `devices` [K] how many devices counted, `variance`
    [K] that of the noise in the measured numbers.
    """

    request: MomentsRequest
    measured: F64
    centres: F64
    rows: F64
    devices: F64
    variance: F64

    def between(self) -> F64:
        """Variance of each column's scores that lies between conditions, float64 [d]."""
        share = self.rows / self.rows.sum()
        spread = (share[:, None] * (self.centres - share @ self.centres) ** 2).sum(axis=0)
        return np.asarray(spread)


class Moments(NamedTuple):
    """A normal distribution of scores for each code of the condition column `given`.

    `centres` is float64 [K, d] and `covariances` [K, d, d], over the columns `columns`, whose codes
    have the scores `scores`; of those in `nullable` the last code means missing.
    """

    given: int
    columns: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    centres: F64
    covariances: F64
    nullable: frozenset[int] = frozenset()


def merge_means(releases: Sequence[DeviceMoments], counts: Sequence[DeviceCounts]) -> Means | None:
    """Merge the sums of order 1; None where there are none.

    As with counts, what a device says of a condition that it has no rows of is noise and left out.

    Parameters
    ----------
    releases : sequence of DeviceMoments
        In the order of their rounds; those with other scores than the latest do not count.
    counts : sequence of DeviceCounts
        Everything that was released about the conditions' rows, that of `releases` included.
    """
    own = [r for r in releases if r.request.order == 1]
    if not own:
        return None
    latest = own[-1].request
    own = [r for r in own if _scores(r.request) == _scores(latest)]
    held = _Held.of(counts, latest.given)
    sums, noise = np.zeros_like(own[-1].sums), np.zeros(latest.groups)
    rows, devices = np.zeros(latest.groups), np.zeros(latest.groups)
    for device in sorted({r.device for r in own}):
        if device not in held.rows:
            continue
        kept = held.kept[device]
        mean, own_noise = average_by_variance(
            [(r.sums, r.sigma**2) for r in own if r.device == device]
        )
        sums += kept[:, None] * mean
        noise += kept * own_noise
        rows += kept * held.rows[device]
        devices += kept
    if not devices.any():
        return None
    rows = np.maximum(rows, 1.0)
    measured = sums / rows[:, None]
    variance = noise / rows**2
    # James and Stein: what a condition's means are apart from zero beyond their noise.
    found = np.maximum((measured**2).mean(axis=1), 1e-12)
    centres = measured * np.clip(1.0 - variance / found, 0.0, 1.0)[:, None]
    return Means(latest, measured, centres, rows, devices, variance)


def merge_moments(
    releases: Sequence[DeviceMoments],
    counts: Sequence[DeviceCounts],
    variances: Mapping[int, float],
    *,
    nullable: Collection[int] = (),
) -> Moments | None:
    """Merge all sums into one distribution for each condition; None without any means.

    Parameters
    ----------
    releases, counts
        As for `merge_means`.
    variances : mapping of int to float
        Variance of each column's scores over all rows, by column: what there is before products.
    nullable : collection of int
        Columns whose last code means missing.
    """
    means = merge_means(releases, counts)
    if means is None:
        return None
    request = means.request
    within = np.array([variances[column] for column in request.columns])
    within = np.maximum(within - means.between(), _LEAST_WITHIN * within)
    start = np.diag(np.maximum(within, _LEAST_FLOOR))
    estimates = _products(releases, _Held.of(counts, request.given), request)
    centres = means.centres
    covariances = np.repeat(start[None], request.groups, axis=0)
    if estimates:
        shared, shared_variance = average_by_variance(
            [(e.shared, e.shared_variance) for e in estimates]
        )
        apart = [e for e in estimates if e.apart is not None]
        for code in range(request.groups):
            own = [(e.apart[code], e.variance[code]) for e in apart if e.apart is not None]
            covariances[code] = _shrunk(shared, shared_variance, own, rows=means.rows[code])
        centres = _filtered(means, _above(shared, shared_variance))
    return Moments(
        given=request.given,
        columns=request.columns,
        scores=request.scores,
        centres=centres,
        covariances=covariances,
        nullable=frozenset(nullable),
    )


class _Held(NamedTuple):
    """Which conditions count on which device (bool [K]) and with how many rows (float64 [K])."""

    kept: dict[str, npt.NDArray[np.bool_]]
    rows: dict[str, F64]

    @classmethod
    def of(cls, counts: Sequence[DeviceCounts], given: int) -> _Held:
        devices = sorted({c.device for c in counts})
        kept = supported(counts, devices, given)
        rows = {}
        for device in kept:
            table = one_way_of([c for c in counts if c.device == device], given)
            assert table is not None, "support follows from the table"
            rows[device] = table.counts
        return cls(kept, rows)


class _Products(NamedTuple):
    """One round's covariances: of all rows, and by condition where they were summed apart."""

    shared: F64
    shared_variance: float
    apart: F64 | None
    variance: F64


def _products(
    releases: Sequence[DeviceMoments], held: _Held, like: MomentsRequest
) -> list[_Products]:
    found = []
    own = [
        r for r in releases
        if r.request.order == 2 and _scores(r.request) == _scores(like) and r.device in held.rows
    ]  # fmt: skip
    for number in sorted({r.round for r in own}):
        parts = [r for r in own if r.round == number]
        width = len(like.columns)
        groups = parts[-1].request.groups
        sums, noise, rows = np.zeros((groups, parts[-1].request.width)), np.zeros(groups), 0.0
        each = np.zeros(groups)
        for part in parts:
            counted = held.rows[part.device]
            kept = held.kept[part.device] if groups > 1 else np.ones(1, np.bool_)
            sums += kept[:, None] * part.sums
            # Off the diagonal a number stands for sqrt(2) products.
            noise += kept * part.sigma**2 / 2
            each += kept * (counted if groups > 1 else counted.sum())
        each = np.maximum(each, 1.0)
        rows = float(each.sum())
        found.append(
            _Products(
                shared=_matrix(sums.sum(axis=0), width) / rows,
                shared_variance=float(noise.sum()) / rows**2,
                apart=np.stack([_matrix(s, width) / n for s, n in zip(sums, each, strict=True)])
                if groups > 1
                else None,
                variance=noise / each**2,
            )
        )
    return found


def _filtered(means: Means, within: F64) -> F64:
    """Return means shrunk by what their direction can hold (Wiener 1949), float64 [K, d].

    Means of conditions lie no further apart in a direction than rows do. Where all rows lie close
    together, what was measured beyond is noise: the means' prior is a normal distribution whose
    covariance is that of all rows, scaled to how far means were found apart.
    """
    share = means.rows / means.rows.sum()
    centred = means.centres - share @ means.centres
    total = within + (share[:, None] * centred).T @ centred
    excess = float((means.measured**2).mean() - means.variance.mean())
    prior = max(excess / float(np.trace(total) / len(total)), 1e-2) * total
    noise = np.eye(len(total))
    return np.stack(
        [
            prior @ np.linalg.solve(prior + variance * noise, measured)
            for measured, variance in zip(means.measured, means.variance, strict=True)
        ]
    )


def _shrunk(
    shared: F64, shared_variance: float, own: Sequence[tuple[F64, float]], *, rows: float
) -> F64:
    """Return a condition's covariance between its own and that of all, positive definite."""
    width = len(shared)
    if not own:
        return _above(shared, shared_variance)
    apart, variance = average_by_variance(own)
    # Of an entry, from so few rows (Wishart): their own luck misleads as noise does.
    sampling = (np.trace(shared) / width) ** 2 / rows
    excess = float(((apart - shared) ** 2).mean())
    trust = min(1.0, max(0.0, 1.0 - (variance + sampling) / max(excess, 1e-12)))
    left = (1.0 - trust) ** 2 * shared_variance + trust**2 * variance
    return _above(shared + trust * (apart - shared), left)


def _above(matrix: F64, variance: float) -> F64:
    floor = min(_MOST_FLOOR, max(_LEAST_FLOOR, _FLOOR_SIGMAS * math.sqrt(variance)))
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, floor)) @ vectors.T)


def _matrix(sums: F64, width: int) -> F64:
    """Undo the order in which products are sent: float64 [width, width], symmetric."""
    first, second = np.triu_indices(width)
    matrix = np.empty((width, width))
    matrix[first, second] = np.where(first == second, sums, sums / math.sqrt(2))
    matrix[second, first] = matrix[first, second]
    return matrix


def _scores(request: MomentsRequest) -> tuple[object, ...]:
    return request.given, request.columns, request.scores
