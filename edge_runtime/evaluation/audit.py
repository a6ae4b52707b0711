"""What an attack proves about a mechanism: a lower bound on its epsilon, with confidence.

If a mechanism is (epsilon, delta)-private, nobody can tell a row's presence from its absence better
than epsilon and delta allow. So an attack that tells better, counted over many runs, proves that
epsilon is larger than claimed. The other way it proves nothing: a weak attack gives a low bound.

Three bounds, from the most cautious to the sharpest:

* `from_rates`: true and false positives of one threshold, Clopper-Pearson limits (Jagielski,
  Ullman, Oprea 2020; Nasr et al. 2021). Assumes nothing, and with n runs cannot pass about log n.
* `one_run`: correct guesses over many rows that each took part by a coin (Steinke, Nasr, Jagielski
  2023, arXiv 2305.08846). Assumes nothing, and needs few runs.
* `from_rates(...).gaussian`: the same rates, read as those of a Gaussian mechanism (Nasr et al.
  2023, arXiv 2302.07956). For Gaussian noise without sampling it is exact, so a few hundred runs
  show an epsilon of 8 or 30; for other mechanisms it is an estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from edge_runtime.errors import EvaluationError

__all__ = [
    "Audited",
    "Guesses",
    "from_rates",
    "gaussian_epsilon",
    "guess",
    "lower_limit",
    "one_run",
    "upper_limit",
]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: thresholds tried, spaced evenly in the logarithm of the rank from either end
_THRESHOLDS = 120
_HALF = np.array([0.5])


@dataclass(frozen=True, kw_only=True)
class Audited:
    """Lower bounds on epsilon from one threshold each.

    Attributes
    ----------
    epsilon : float
        Whatever the mechanism, with the confidence asked for.
    gaussian : float
        If the mechanism is a Gaussian one.
    mu : float
        Its separation of the two cases in standard deviations, behind `gaussian`.
    ceiling, gaussian_ceiling : float
        What a perfect attack would have proved with as many runs: bounds cannot be above these.
    inside, outside : int
        Runs with and without the row that `epsilon` was counted on.
    """

    epsilon: float
    gaussian: float
    mu: float
    ceiling: float
    gaussian_ceiling: float
    inside: int
    outside: int


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Guesses over rows that took part by a coin each.

    Attributes
    ----------
    rows : int
        Rows there were, also those nobody guessed about.
    made, correct : int
    epsilon : float
        The lower bound.
    ceiling : float
        The bound had all guesses been right.
    """

    rows: int
    made: int
    correct: int
    epsilon: float
    ceiling: float


def upper_limit(hits: npt.ArrayLike, trials: npt.ArrayLike, alpha: float) -> F64:
    """Find what a probability exceeds with chance `alpha` at most (Clopper and Pearson 1934)."""
    k, n = np.asarray(hits, np.float64), np.asarray(trials, np.float64)
    with np.errstate(invalid="ignore"):
        limit = special.betaincinv(k + 1.0, np.maximum(n - k, 1.0), 1.0 - alpha)
    return np.asarray(np.where(k >= n, 1.0, limit), dtype=np.float64)


def lower_limit(hits: npt.ArrayLike, trials: npt.ArrayLike, alpha: float) -> F64:
    """Find what a probability falls below with chance `alpha` at most."""
    k, n = np.asarray(hits, np.float64), np.asarray(trials, np.float64)
    return np.asarray(1.0 - upper_limit(n - k, n, alpha), dtype=np.float64)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of telling N(0, 1) from N(mu, 1).

    Balle and Wang 2018, theorem 8; Dong, Roth and Su 2022, corollary 2.13.
    """
    if mu <= 0.0:
        return 0.0

    def excess(epsilon: float) -> float:
        # In logarithms: e^epsilon overflows where its factor is tiny.
        first = special.ndtr(mu / 2.0 - epsilon / mu)
        second = math.exp(epsilon + float(special.log_ndtr(-mu / 2.0 - epsilon / mu)))
        return float(first) - second - delta

    if excess(0.0) <= 0.0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > 0.0:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return low


def from_rates(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    threshold: float | None = None,
) -> Audited:
    """Bound epsilon by how well a score tells runs with a row from runs without it.

    Thresholds are chosen on every other score and judged on the rest, so that trying many costs no
    confidence.

    Parameters
    ----------
    inside, outside : float64 [runs]
        One score per independent run, higher where the row is thought to have taken part.
    delta : float
        At which epsilon is stated.
    confidence : float
        That each bound holds.
    threshold : float, optional
        For the Gaussian bound, known before any score (0 for a log-likelihood ratio): all scores
        are then judged, and none spent on choosing.

    Raises
    ------
    EvaluationError
        Fewer than 4 runs on a side, or scores that are not numbers.
    """
    a, b = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if min(a.size, b.size) < 4 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EvaluationError(
            f"an audit needs 4 finite scores or more on each side, not {a.size} and {b.size}"
        )
    alpha = (1.0 - confidence) / 2.0
    tried = _thresholds(np.concatenate([a[::2], b[::2]]))
    epsilons, mus = _bounds(a[::2], b[::2], tried, delta, alpha)
    best = tried[[int(np.argmax(epsilons)), int(np.argmax(mus))]]
    later_a, later_b = a[1::2], b[1::2]
    epsilons, mus = _bounds(later_a, later_b, best, delta, alpha)
    mu = float(mus[1])
    all_a, all_b = (later_a, later_b) if threshold is None else (a, b)
    if threshold is not None:
        mu = float(_bounds(a, b, np.array([threshold]), delta, alpha)[1][0])
    mu = max(0.0, mu)
    ceiling, _ = _bounds(later_a * 0 + 1, later_b * 0, _HALF, delta, alpha)
    _, mu_ceiling = _bounds(all_a * 0 + 1, all_b * 0, _HALF, delta, alpha)
    return Audited(
        epsilon=max(0.0, float(epsilons[0])),
        gaussian=gaussian_epsilon(mu, delta),
        mu=mu,
        ceiling=float(ceiling[0]),
        gaussian_ceiling=gaussian_epsilon(float(mu_ceiling[0]), delta),
        inside=later_a.size,
        outside=later_b.size,
    )


def _thresholds(scores: F64) -> F64:
    values = np.unique(scores)
    if values.size == 1:
        return values
    between = 0.5 * (values[1:] + values[:-1])
    if between.size <= _THRESHOLDS:
        return np.asarray(between, dtype=np.float64)
    # Rates of one in thousands matter as much as those near one half.
    ranks = np.geomspace(1.0, between.size, _THRESHOLDS // 2).astype(np.int64) - 1
    return np.asarray(
        between[np.union1d(ranks, between.size - 1 - ranks)],
        dtype=np.float64,
    )


def _bounds(
    inside: F64, outside: F64, thresholds: F64, delta: float, alpha: float
) -> tuple[F64, F64]:
    """Epsilon and mu that each threshold proves; both rates hold at once with 1 - 2 alpha."""
    n, m = inside.size, outside.size
    true = n - np.searchsorted(np.sort(inside), thresholds, side="left")
    false = m - np.searchsorted(np.sort(outside), thresholds, side="left")
    tpr, fpr = lower_limit(true, n, alpha), upper_limit(false, m, alpha)
    # The mirrored guess: low scores are those of runs without the row.
    tnr, fnr = lower_limit(m - false, m, alpha), upper_limit(n - true, n, alpha)
    epsilon = np.maximum(
        np.log(np.maximum(tpr - delta, 1e-300) / fpr),
        np.log(np.maximum(tnr - delta, 1e-300) / fnr),
    )
    mu = -special.ndtri(fpr) - special.ndtri(fnr)
    return epsilon, np.nan_to_num(mu, nan=0.0, neginf=0.0)


def _p_value(rows: int, made: int, correct: int, epsilon: float, delta: float) -> float:
    """Chance of as many correct guesses under (epsilon, delta)-privacy.

    Steinke, Nasr and Jagielski 2023, theorem 5.2 in the form of their appendix D.
    """
    right = float(special.expit(epsilon))
    chance = float(stats.binom.sf(correct - 1, made, right))
    if delta == 0.0 or correct == 0:
        return chance
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), made, right))
    alpha = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, chance + 2.0 * rows * delta * alpha)


def one_run(rows: int, made: int, correct: int, *, delta: float, confidence: float) -> float:
    """Find the largest epsilon that this many correct guesses refute.

    Parameters
    ----------
    rows : int
        Rows that took part by a fair coin each.
    made, correct : int
        Guesses, and how many were right. Their number must not depend on the coins.
    delta, confidence : float
    """
    if not 0 <= correct <= made <= rows:
        raise EvaluationError(f"{correct} of {made} guesses over {rows} rows cannot be right")
    alpha = 1.0 - confidence
    low, high = 0.0, 1.0
    if _p_value(rows, made, correct, low, delta) >= alpha:
        return 0.0
    while _p_value(rows, made, correct, high, delta) < alpha:
        low, high = high, 2.0 * high
    for _ in range(40):
        middle = 0.5 * (low + high)
        refuted = _p_value(rows, made, correct, middle, delta) < alpha
        low, high = (middle, high) if refuted else (low, middle)
    return low


def guess(
    scores: F64,
    included: npt.NDArray[np.bool_],
    *,
    share: float,
    delta: float,
    confidence: float = 0.95,
) -> Guesses:
    """Call the highest scores present and the lowest absent, and bound epsilon by the outcome.

    Parameters
    ----------
    scores : float64 [rows]
        Made without the coins of these rows.
    included : bool [rows]
        The coins.
    share : float
        Part of the rows guessed about, above 0 to 1; chosen beforehand, or on other rows.
    delta, confidence : float
    """
    half = max(1, round(scores.size * share / 2.0))
    order = np.argsort(scores, kind="stable")
    correct = int((~included[order[:half]]).sum() + included[order[-half:]].sum())
    made, rows = 2 * half, int(scores.size)
    return Guesses(
        rows=rows,
        made=made,
        correct=correct,
        epsilon=one_run(rows, made, correct, delta=delta, confidence=confidence),
        ceiling=one_run(rows, made, made, delta=delta, confidence=confidence),
    )
