"""A smooth histogram behind noise, for few rows in cells on a number line.

The logarithm of the shares has a Gaussian prior that penalises its second differences (Good and
Gaskins 1971, Biometrika 58; Silverman 1982, Annals of Statistics 10): with nothing to go by it is a
straight line, and the shares an exponential or even distribution. How much it may bend is not
known, so each strength of the penalty counts by how well it explains the noisy counts (the Laplace
approximation of its evidence, MacKay 1992, Neural Computation 4). So does each of two forms: one
in which all cells on the line are neighbours, and one in which a frequent value (zero rain, a price
that is nearly always the same) has a cell of its own, which its neighbours do not follow.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["smooth"]

F64 = NDArray[np.float64]

#: strengths of the penalty on squared second differences of logarithms, strongest first
_STRENGTHS = np.logspace(5, -3, 9)
#: a little on everything: logarithms of empty cells have an end, and equations a solution
_RIDGE = 1e-4
#: the same for a cell that stands alone: logarithms of atoms lie within some 3 of the mean
_ALONE = 0.1
#: Newton's steps: at most so many, so long, and until the objective falls by less
_STEPS, _LONGEST, _SETTLED = 25, 2.0, 1e-2


def smooth(counts: F64, *, sigma: float, rows: float, line: int) -> F64:
    """Return a smooth histogram that explains a noisy one.

    Parameters
    ----------
    counts : float64 ndarray
        [cells], some hundred at most: the cost is cubic.
    sigma : float
        Standard deviation of the noise in each cell, positive.
    rows : float
        The total, positive.
    line : int
        The first that many cells lie on a number line; the others stand alone.

    Returns
    -------
    float64 ndarray
        [cells], all positive, summing to `rows`: the mean over strengths and forms, by evidence.
    """
    # A census is looked at several times in a round, and stays as it is for a fleet's whole life.
    found = _smooth(np.asarray(counts, np.float64).tobytes(), sigma / rows, rows, line)
    return found.copy()


@lru_cache(maxsize=512)
def _smooth(packed: bytes, noise: float, rows: float, line: int) -> F64:
    counts = np.frombuffer(packed)
    share = counts / rows
    found = []
    for alone in (None, _outstanding(counts[:line])):
        logs = np.zeros(len(counts))
        smoothed = [cell for cell in range(line) if cell != alone]
        bends = np.zeros((max(0, len(smoothed) - 2), len(counts)))
        bends[:, smoothed] = np.diff(np.eye(len(smoothed)), n=2, axis=0)[: len(bends)]
        least = np.full(len(counts), _RIDGE)
        if alone is not None:
            least[alone] = _ALONE
        for strength in _STRENGTHS:
            prior = strength * bends.T @ bends + np.diag(least)
            logs, shares, evidence = _most_likely(share, noise, prior, logs)
            found.append((evidence, shares))
    best = max(evidence for evidence, _ in found)
    weights = np.exp([evidence - best for evidence, _ in found])
    mean: F64 = rows * np.average([shares for _, shares in found], axis=0, weights=weights)
    return mean


def _outstanding(counts: F64) -> int | None:
    """Return the cell that stands out most from those beside it."""
    if len(counts) < 3:
        return None
    beside = np.pad(counts, 1, mode="reflect")
    return int((counts - (beside[:-2] + beside[2:]) / 2).argmax())


def _most_likely(share: F64, sigma: float, prior: F64, start: F64) -> tuple[F64, F64, float]:
    """Maximise the posterior of logarithms of shares, by Gauss and Newton.

    Returns
    -------
    logarithms : float64 [cells], mean 0
    shares : float64 [cells]
    evidence : float
        Logarithm of the probability of the noisy shares under this prior, but for a constant.
    """
    logs = start
    shares, cost = _shares(logs), _cost(share, sigma, prior, logs)
    for _ in range(_STEPS):
        slope = np.diag(shares) - np.outer(shares, shares)
        curvature = slope @ slope / sigma**2 + prior
        step = np.linalg.solve(curvature, slope @ (share - shares) / sigma**2 - prior @ logs)
        step *= min(1.0, _LONGEST / max(float(np.abs(step).max()), 1e-12))
        while (after := _cost(share, sigma, prior, logs + step)) > cost:
            step /= 2
            if float(np.abs(step).max()) < 1e-6:
                after = cost
                break
        fell, cost = cost - after, after
        logs = logs + step
        logs -= logs.mean()
        shares = _shares(logs)
        if fell < _SETTLED:
            break
    slope = np.diag(shares) - np.outer(shares, shares)
    curvature = slope @ slope / sigma**2 + prior
    determinants = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(curvature)[1]
    return logs, shares, float(determinants) / 2 - cost


def _shares(logs: F64) -> F64:
    raised = np.exp(logs - logs.max())
    shares: F64 = raised / raised.sum()
    return shares


def _cost(share: F64, sigma: float, prior: F64, logs: F64) -> float:
    misfit = (share - _shares(logs)) / sigma
    return float(misfit @ misfit + logs @ prior @ logs) / 2
