"""One release alone, on hundreds of thousands of devices: what it costs, and what it proves."""

from __future__ import annotations

import sqlite3
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from audit.canary import Verdict
from audit.device import DELTA
from edge_runtime.device.budget import counts_cost, counts_sigma
from edge_runtime.evaluation.audit import from_rates
from edge_runtime.evaluation.membership import area, true_positives_at
from edge_runtime.privacy import Entry, Ledger

__all__ = ["Paid", "pay", "tell_apart"]


class Paid(NamedTuple):
    """A ledger's entry for the whole limit, the noise that it allows and the epsilon it claims."""

    entry: Entry
    sigma: Fraction
    claimed: float


def pay(what: str, *, epsilon: float | None, sensitivity_squared: int) -> Paid:
    """Spend the whole limit of a new ledger on one release, as a device does it.

    Parameters
    ----------
    what : str
    epsilon : float or None
        The limit; None = WITHOUT PRIVACY.
    sensitivity_squared : int
        Squared L2 norm of what one row adds.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        ledger = Ledger(connection, epsilon_limit=epsilon, delta=DELTA)
        sigma = counts_sigma(
            sensitivity_squared=sensitivity_squared,
            spent=ledger.rdp_spent(),
            epsilon_after=epsilon,
            delta=DELTA,
        )
        entry = ledger.spend(
            key=f"audit/{what}",
            what=what,
            rdp=counts_cost(sigma=sigma, sensitivity_squared=sensitivity_squared)
            if sigma
            else None,
            details={},
        )
        return Paid(entry, sigma, ledger.epsilon_spent())
    finally:
        connection.close()


def tell_apart(
    view: str, scores: npt.NDArray[np.float64], *, claimed: float, confidence: float
) -> Verdict:
    """Judge log-likelihood ratios (in any unit): of devices with the canary, then without it.

    Parameters
    ----------
    view : str
    scores : float64 [2 * devices]
    claimed : float
    confidence : float
        Of each bound.
    """
    inside, outside = np.split(scores, 2)
    return Verdict(
        view=view,
        claimed=claimed,
        audited=from_rates(inside, outside, delta=DELTA, confidence=confidence, threshold=0.0),
        area=area(inside, outside),
        found=true_positives_at(inside, outside, 0.01),
        runs=scores.size,
    )
