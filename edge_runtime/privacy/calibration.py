"""The smallest noise that keeps a cumulative epsilon: for a training run and for counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edge_runtime.errors import BudgetError
from edge_runtime.privacy.accountant import (
    F64,
    ORDERS,
    rdp_gaussian,
    rdp_subsampled_gaussian,
    to_epsilon,
)

__all__ = ["calibrate_counts", "calibrate_noise", "smallest_noise"]

#: The search stops when the noise is known to this relative width; the upper end is returned.
_WIDTH = 1e-4
#: Above this noise nothing useful is left: a budget that asks for more is refused.
_MOST = 1e9
_LEAST = 1e-3


def calibrate_noise(
    *, spent: F64 | None, epsilon: float, delta: float, q: float, steps: int
) -> float:
    """Smallest noise multiplier with which a training run ends at `epsilon` in total.

    Parameters
    ----------
    spent : float64 [orders] or None
        What the ledger holds before the run.
    epsilon, delta : float
        The cumulative target.
    q, steps : float, int
        Poisson sampling probability and number of steps.

    Returns
    -------
    float
        Rounded up by at most 1e-4 of itself; `to_epsilon(spent + cost) <= epsilon` holds.

    Raises
    ------
    BudgetError
        If `spent` alone (with any noise) already exceeds `epsilon`.
    """
    return smallest_noise(
        lambda sigma: rdp_subsampled_gaussian(q, sigma, steps),
        what=f"training for {steps} steps",
        spent=spent,
        epsilon=epsilon,
        delta=delta,
    )


def calibrate_counts(
    *,
    epsilon: float,
    delta: float,
    sensitivity_squared: float,
    spent: F64 | None = None,
    share: float = 1.0,
) -> float:
    """Find the standard deviation of the noise on counts that ends at `epsilon` in total.

    Parameters
    ----------
    epsilon, delta : float
        The cumulative target.
    sensitivity_squared : float
        Squared L2 norm of what one row adds to all counts together (D for D one-way tables).
    spent : float64 [orders] or None
        What the ledger holds before.
    share : float
        Part of the room between `spent` and `epsilon` that the counts may use, above 0 to 1.
        The room is measured in Renyi divergence, which adds up: noise grows by 1/sqrt(share).

    Returns
    -------
    float
        In units of one count.

    Raises
    ------
    BudgetError
        If `spent` alone already exceeds `epsilon`.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share {share} is not between 0 (excluded) and 1")
    if not sensitivity_squared > 0.0:
        raise ValueError(f"squared sensitivity {sensitivity_squared} is not positive")
    multiplier = smallest_noise(
        rdp_gaussian, what="noisy counts", spent=spent, epsilon=epsilon, delta=delta
    )
    return multiplier * math.sqrt(sensitivity_squared / share)


def smallest_noise(
    cost: Callable[[float], F64], *, what: str, spent: F64 | None, epsilon: float, delta: float
) -> float:
    """Find the smallest noise multiplier whose cost ends at `epsilon` in total.

    Parameters
    ----------
    cost : callable
        Noise multiplier to float64 [orders]; falls as the noise grows.
    what : str
        For the error message.
    spent : float64 [orders] or None
        What the ledger holds before.
    epsilon, delta : float
        The cumulative target.

    Raises
    ------
    BudgetError
        If no noise is large enough.
    """
    before = np.zeros_like(ORDERS) if spent is None else spent

    def total(sigma: float) -> float:
        return to_epsilon(before + cost(sigma), delta)

    high = 1.0
    while total(high) > epsilon:
        high *= 2.0
        if high > _MOST:
            raise BudgetError(
                what, needed=total(high), spent=to_epsilon(before, delta), limit=epsilon
            )
    low = high / 2.0
    while low > _LEAST and total(low) <= epsilon:
        high, low = low, low / 2.0
    while high - low > _WIDTH * high:
        middle = 0.5 * (low + high)
        if total(middle) <= epsilon:
            high = middle
        else:
            low = middle
    return high
