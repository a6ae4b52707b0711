"""Membership inference: whether a row was among those that a device learnt from.

Scores, higher for rows that are thought to have taken part, and how good such scores are. What they
prove about epsilon is in `edge_runtime.evaluation.audit`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from edge_runtime.errors import EvaluationError

__all__ = ["Discriminant", "area", "closeness", "shadow_scores", "true_positives_at"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
Coins = npt.NDArray[np.bool_]

#: a row's own spread over the shadow runs is trusted down to this share of the typical spread
_LEAST_SPREAD = 0.1


def area(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Area under the ROC curve: chance that a member's score is the higher one; ties count half."""
    a, b = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if a.size == 0 or b.size == 0:
        raise EvaluationError("the area under the curve needs scores on both sides")
    ranks = stats.rankdata(np.concatenate([a, b]))
    return float((ranks[: a.size].sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


def true_positives_at(inside: npt.ArrayLike, outside: npt.ArrayLike, rate: float) -> float:
    """Share of members found when at most a share `rate` of the others is called a member."""
    a, b = np.asarray(inside, np.float64), np.sort(np.asarray(outside, np.float64))[::-1]
    if a.size == 0 or b.size == 0:
        raise EvaluationError("true positives need scores on both sides")
    # Strictly above the first score that may not be called a member any more.
    return float(np.mean(a > b[min(int(rate * b.size), b.size - 1)]))


def closeness(targets: I32, rows: I32) -> F64:
    """Tell how close the closest record comes to each target; ties go by how many are as close.

    Parameters
    ----------
    targets : int32 [n, D]
    rows : int32 [m, D]
        Synthetic rows.

    Returns
    -------
    float64 [n]
        Number of columns in which the closest row agrees, plus the share of rows as close as it.
    """
    if rows.shape[0] == 0:
        raise EvaluationError("the distance to the closest record needs synthetic rows")
    same = np.zeros((targets.shape[0], rows.shape[0]), np.int16)
    for column in range(targets.shape[1]):
        same += targets[:, column, None] == rows[None, :, column]
    most = same.max(axis=1)
    as_close = (same == most[:, None]).mean(axis=1)
    # Below 1, so that a column in common always counts for more.
    return np.asarray(most + 0.999 * as_close, dtype=np.float64)


def shadow_scores(shadow: F64, included: Coins, observed: F64) -> F64:
    """Likelihood-ratio attack with shadow runs (LiRA; Carlini et al. 2022, algorithm 1).

    Each row's statistic is modelled by one normal distribution over the shadow runs that had it,
    and one over those that had not.

    Parameters
    ----------
    shadow : float64 [runs, rows]
        The statistic of every row in every shadow run, such as its log-likelihood.
    included : bool [runs, rows]
        Whether the row took part in that run.
    observed : float64 [attacked runs, rows]

    Returns
    -------
    float64 [attacked runs, rows]
        Log of the likelihood ratio.

    Raises
    ------
    EvaluationError
        A row took part in all shadow runs, or in none.
    """
    counts = included.sum(axis=0), (~included).sum(axis=0)
    if min(int(count.min()) for count in counts) < 2:
        raise EvaluationError("every row needs 2 shadow runs with it and 2 without it")
    fits = []
    for chosen, count in zip((included, ~included), counts, strict=True):
        mean = np.where(chosen, shadow, 0.0).sum(axis=0) / count
        squares = np.where(chosen, (shadow - mean) ** 2, 0.0).sum(axis=0)
        fits.append((mean, squares / (count - 1)))
    (mean_in, variance_in), (mean_out, variance_out) = fits
    typical = float(np.mean(np.concatenate([variance_in, variance_out])))
    least = _LEAST_SPREAD**2 * typical + 1e-12
    variance_in, variance_out = np.maximum(variance_in, least), np.maximum(variance_out, least)
    return np.asarray(
        0.5 * ((observed - mean_out) ** 2 / variance_out + np.log(variance_out))
        - 0.5 * ((observed - mean_in) ** 2 / variance_in + np.log(variance_in)),
        dtype=np.float64,
    )


class Discriminant:
    """Log-likelihood ratio of two normal distributions with one covariance, fitted to features.

    Parameters
    ----------
    inside, outside : float64 [runs, features]
        Features of shadow runs with and without the row.
    """

    def __init__(self, inside: F64, outside: F64) -> None:
        pooled = np.concatenate([inside, outside])
        # A feature that never moves carries nothing and must not divide by zero.
        self._centre, self._scale = pooled.mean(axis=0), pooled.std(axis=0) + 1e-12
        a, b = self._standard(inside), self._standard(outside)
        within = np.cov(np.concatenate([a - a.mean(axis=0), b - b.mean(axis=0)]).T)
        ridge = 1e-3 * np.eye(inside.shape[1])
        self._weights = np.linalg.solve(
            np.atleast_2d(within) + ridge, a.mean(axis=0) - b.mean(axis=0)
        )

    def _standard(self, features: F64) -> F64:
        return np.asarray((features - self._centre) / self._scale, dtype=np.float64)

    def score(self, features: F64) -> F64:
        """Score runs, float64 [runs]; higher where the row is thought to have taken part."""
        return np.asarray(self._standard(features) @ self._weights, dtype=np.float64)
