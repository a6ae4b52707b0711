"""How a plan's cumulative ceiling becomes noise: pure arithmetic on public numbers.

A plan names the epsilon that a row may have cost once it is done. What is left of that above what
the ledger already holds is the plan's room; score and anchor get their shares of it, training what
the accountant finds left after that.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BudgetError, PlanError
from edge_runtime.messages import Plan
from edge_runtime.privacy import (
    calibrate_counts,
    rdp_gaussian,
    round_sigma,
)

__all__ = [
    "check_limits",
    "counts_cost",
    "counts_sigma",
    "share_after",
]

F64 = npt.NDArray[np.float64]


def check_limits(plan: Plan, *, epsilon_limit: float | None, delta: float, spent: float) -> None:
    """Decline a plan that this device must not carry out, before anything is spent.

    Parameters
    ----------
    plan : Plan
        What is asked.
    epsilon_limit, delta : float or None, float
        The device's own limit; None allows releases without privacy.
    spent : float
        Epsilon spent so far, at `delta`.

    Raises
    ------
    PlanError, BudgetError
        When the plan asks for more than the limit, for no privacy at all where a limit is set, or
        counts with another delta.
    """
    if plan.epsilon_after is None:
        if epsilon_limit is not None:
            raise PlanError(
                "the plan asks for releases WITHOUT PRIVACY, this device's limit is epsilon "
                f"{epsilon_limit:g}"
            )
        return
    if plan.delta != delta:
        raise PlanError(
            f"the plan states its epsilon at delta {plan.delta:g}, this device at {delta:g}; set "
            "both to the same value"
        )
    if epsilon_limit is not None and plan.epsilon_after > epsilon_limit:
        raise BudgetError(
            f"plan of round {plan.round}",
            needed=plan.epsilon_after,
            spent=spent,
            limit=epsilon_limit,
        )
    if math.isinf(spent):
        raise PlanError(
            "this device has already released counts WITHOUT PRIVACY: no later noise can bring "
            "its epsilon back to a number"
        )
    if spent >= plan.epsilon_after:
        raise PlanError(
            f"the plan allows epsilon {plan.epsilon_after:.4g}, {spent:.4g} is already spent"
        )


def counts_sigma(
    *,
    sensitivity_squared: int,
    spent: F64,
    epsilon_after: float | None,
    delta: float,
    share: float = 1.0,
) -> Fraction:
    """Find the noise per count that uses a share of the room; 0 WITHOUT PRIVACY.

    Parameters
    ----------
    sensitivity_squared : int
        How many counts one row changes, by 1 each.
    spent : F64 [orders]
        RDP spent so far.
    epsilon_after, delta : float or None, float
        The plan's ceiling.
    share : float
        Of the room between `spent` and the ceiling.
    """
    if epsilon_after is None:
        return Fraction(0)
    return round_sigma(
        calibrate_counts(
            epsilon=epsilon_after,
            delta=delta,
            sensitivity_squared=sensitivity_squared,
            spent=spent,
            share=share,
        )
    )


def share_after(share: float, *, earlier: float) -> float:
    """Turn a share of the plan's room into one of what an earlier share of it has left.

    Exact: the room of counts is one multiple of the order, which shares divide.
    """
    return min(1.0, share / (1.0 - earlier)) if earlier < 1.0 else 1.0


def counts_cost(*, sigma: Fraction, sensitivity_squared: int) -> F64:
    """RDP of discrete Gaussian noise on counts (Canonne, Kamath and Steinke 2020, theorem 14).

    Parameters
    ----------
    sigma : Fraction
        Standard deviation of the noise per count.
    sensitivity_squared : int
        Squared L2 sensitivity: how many counts one row changes, by 1 each.
    """
    return rdp_gaussian(float(sigma) / math.sqrt(sensitivity_squared))
