"""The fleet's score curve: how likely each bundle makes real rows that no device trained on.

Devices score the bundle of a plan on rows that they hold out for ever, and release the clipped sum
and the count with noise. The mean over the fleet is the figure that falls when a generator
collapses; category coverage and local quality do not. Bundles are compared device by device: the
same held-out rows stand behind both figures, so that their differences carry no more than noise
and what really changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from edge_runtime.aggregator.summaries import DeviceScore

__all__ = [
    "Comparison",
    "CurvePoint",
    "best_point",
    "compare_bundles",
    "score_curve",
    "worsened",
]

#: a device's count must exceed this many deviations of its noise for a mean of its own
_KNOWN_SIGMAS = 4.0

#: devices from which on their spread says more about sampling than its bound
_SPREAD_DEVICES = 5


class CurvePoint(NamedTuple):
    """The fleet's mean for one bundle, nats per row.

    `noise_error` is the standard error from released noise, `error` that from sampling as well;
    `round` is the first in which the bundle was scored.
    """

    bundle: str
    round: int
    nll: float
    noise_error: float
    error: float
    devices: int
    rows: float


class Comparison(NamedTuple):
    """How much a bundle is worse than another: nats per row, with its standard error.

    `paired` devices scored both; without enough of them all devices are compared.
    """

    difference: float
    error: float
    paired: int

    def p_value(self, margin: float = 0.0) -> float:
        """Probability of such a difference if the bundle were worse by `margin` at most."""
        if self.error == 0:
            return 0.0 if self.difference > margin else 1.0
        return 1.0 - NormalDist().cdf((self.difference - margin) / self.error)


def score_curve(scores: Sequence[DeviceScore], *, since_round: int = 0) -> list[CurvePoint]:
    """Merge devices' scores, bundle by bundle.

    Parameters
    ----------
    scores : sequence of DeviceScore
        Of any bundles and rounds; of a device's scores of one bundle the last counts.
    since_round : int
        Earlier scores are left out: after the population has changed, older figures are about
        other rows.

    Returns
    -------
    list of CurvePoint
        In the order of the rounds.
    """
    points = []
    for bundle, own in _by_bundle(scores, since_round).items():
        latest = list(own.values())
        rows = max(1.0, sum(s.rows for s in latest))
        nll = sum(s.nats for s in latest) / rows
        noise = sum(_noise(s, nll) for s in latest) / rows**2
        points.append(
            CurvePoint(
                bundle=bundle,
                round=min(s.round for s in latest),
                nll=nll,
                noise_error=math.sqrt(noise),
                error=math.sqrt(noise + _sampling_variance(latest, nll, rows)),
                devices=len(latest),
                rows=rows,
            )
        )
    return sorted(points, key=lambda point: point.round)


def compare_bundles(
    scores: Sequence[DeviceScore], *, bundle: str, against: str, since_round: int = 0
) -> Comparison | None:
    """Compare two bundles on the devices that scored both, or else on all.

    The error is the larger of what the released noise makes and of what the spread of the
    differences over devices shows (a ratio estimator's; Cochran 1977, 6.3): between devices with
    different rows a bundle may gain here and lose there.

    Parameters
    ----------
    scores : sequence of DeviceScore
        Of both bundles.
    bundle, against : str
        Digests; a positive difference means that `bundle` is worse.
    since_round : int
        As in `score_curve`.

    Returns
    -------
    Comparison or None
        None when one of them has no score.
    """
    by_bundle = _by_bundle(scores, since_round)
    new, old = by_bundle.get(bundle), by_bundle.get(against)
    if not new or not old:
        return None
    both = sorted(
        device
        for device in new.keys() & old.keys()
        if min(new[device].rows, old[device].rows)
        > _KNOWN_SIGMAS * max(new[device].sigma_rows, old[device].sigma_rows)
    )
    if not both:
        points = {point.bundle: point for point in score_curve(scores, since_round=since_round)}
        a, b = points[bundle], points[against]
        return Comparison(a.nll - b.nll, math.hypot(a.error, b.error), 0)
    weights = np.array([0.5 * (new[d].rows + old[d].rows) for d in both])
    weights /= weights.sum()
    differences = np.array([_mean(new[d]) - _mean(old[d]) for d in both])
    noise = np.array([_mean_variance(new[d]) + _mean_variance(old[d]) for d in both])
    mean = float((weights * differences).sum())
    variance = float((weights**2 * noise).sum())
    if len(both) >= 2:
        spread = float((weights**2 * (differences - mean) ** 2).sum())
        variance = max(variance, spread * len(both) / (len(both) - 1))
    return Comparison(mean, math.sqrt(variance), len(both))


def best_point(points: Sequence[CurvePoint]) -> CurvePoint | None:
    """Return the bundle with the lowest upper end of its score (one standard error)."""
    return min(points, key=lambda point: point.nll + point.noise_error, default=None)


def worsened(
    scores: Sequence[DeviceScore],
    *,
    bundle: str,
    among: Sequence[str],
    margin: float,
    false_alarms: float,
    since_round: int = 0,
) -> tuple[CurvePoint, Comparison] | None:
    """Find the bundle that another one is significantly worse than.

    Parameters
    ----------
    scores : sequence of DeviceScore
        The fleet's.
    bundle : str
        The one in question.
    among : sequence of str
        Bundles it is held against.
    margin : float
        A relative rise of the best one's NLL that is no alarm yet.
    false_alarms : float
        Probability of an alarm without such a rise, over all bundles compared (Bonferroni).
    since_round : int
        As in `score_curve`.

    Returns
    -------
    (CurvePoint, Comparison) or None
        The best of the bundles that it is worse than, and by how much.
    """
    points = [
        point
        for point in score_curve(scores, since_round=since_round)
        if point.bundle in among and point.bundle != bundle
    ]
    found: tuple[CurvePoint, Comparison] | None = None
    for point in points:
        comparison = compare_bundles(
            scores, bundle=bundle, against=point.bundle, since_round=since_round
        )
        if comparison is None:
            continue
        if comparison.p_value(margin * abs(point.nll)) >= false_alarms / len(points):
            continue
        if found is None or point.nll < found[0].nll:
            found = (point, comparison)
    return found


def _mean(score: DeviceScore) -> float:
    return score.nats / max(1.0, score.rows)


def _noise(score: DeviceScore, mean: float) -> float:
    """Variance that the released noise gives nats - mean * rows (delta method)."""
    return score.sigma_rows**2 * (score.clip_nats**2 + mean**2)


def _mean_variance(score: DeviceScore) -> float:
    return _noise(score, _mean(score)) / max(1.0, score.rows) ** 2


def _by_bundle(
    scores: Sequence[DeviceScore], since_round: int
) -> Mapping[str, dict[str, DeviceScore]]:
    found: dict[str, dict[str, DeviceScore]] = {}
    for score in sorted(scores, key=lambda s: s.round):
        if score.round >= since_round:
            found.setdefault(score.bundle_digest, {})[score.device] = score
    return found


def _sampling_variance(scores: Sequence[DeviceScore], nll: float, rows: float) -> float:
    """Variance of the mean because held-out rows are a sample.

    From the spread over devices where there are enough of them; else the most that a variable
    between 0 and the clip can have around its mean (Bhatia and Davis 2000).
    """
    clip = max(s.clip_nats for s in scores)
    bound = max(0.0, (clip - nll) * nll) / rows
    if len(scores) < _SPREAD_DEVICES:
        return bound
    residuals = np.array([s.nats - nll * s.rows for s in scores])
    n = len(scores)
    spread = n / (n - 1) * float((residuals**2).sum()) / rows**2
    noise = sum(_noise(s, nll) for s in scores) / rows**2
    return max(0.0, spread - noise)
