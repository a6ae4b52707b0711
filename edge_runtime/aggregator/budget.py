"""How the fleet's privacy budget is shared out over the census and the rounds.

Shares are shares of zero-concentrated privacy rho, which adds up over releases: the Renyi cost of
order a is at most a * rho (Bun and Steinke 2016). Epsilon does not add up; each plan therefore
states the CUMULATIVE epsilon after it, and every device's own accountant finds the noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.privacy import ORDERS, rdp_gaussian, to_epsilon

__all__ = ["Schedule", "make_schedule", "rho_of"]


class Schedule(NamedTuple):
    """Cumulative ceilings and the census's noise.

    `epsilon_after[0]` belongs to the census, `[r]` to round r; `census_sigma` is the standard
    deviation of the noise per cell. All None, and sigma None: WITHOUT PRIVACY.
    """

    epsilon_after: tuple[float | None, ...]
    census_sigma: float | None


def make_schedule(
    *,
    epsilon: float | None,
    delta: float,
    rounds: int,
    census_share: float,
    census_sensitivity_squared: int,
) -> Schedule:
    """Share a budget out.

    Parameters
    ----------
    epsilon, delta : float or None, float
        What a row may cost over everything; epsilon None: without privacy.
    rounds : int
        Training rounds; they share evenly what the census leaves.
    census_share : float
        Of rho.
    census_sensitivity_squared : int
        Squared L2 sensitivity of one census: a row adds 1 to one cell of each column.

    Returns
    -------
    Schedule
        `epsilon_after` has `rounds + 1` entries, strictly increasing up to `epsilon`.

    Raises
    ------
    ConfigError
        If epsilon is too small for any release at this delta.
    """
    if epsilon is None:
        return Schedule((None,) * (rounds + 1), None)
    total = rho_of(epsilon, delta)
    census = total * census_share
    each = (total - census) / rounds
    sigma = math.sqrt(census_sensitivity_squared / (2 * census))
    # By the accountant that devices use, which rounds up: they compare to the last digit.
    first = to_epsilon(rdp_gaussian(sigma / math.sqrt(census_sensitivity_squared)), delta)
    later = [to_epsilon(ORDERS * (census + each * r), delta) for r in range(1, rounds)]
    return Schedule((first, *later, epsilon), sigma)


def rho_of(epsilon: float, delta: float) -> float:
    """Return the largest rho whose conversion does not exceed epsilon, to one part in 10^9."""
    high = epsilon
    while to_epsilon(ORDERS * high, delta) <= epsilon:
        high *= 2
    low = 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if to_epsilon(ORDERS * middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
        if high < 1e-12:
            raise ConfigError(
                f"privacy.epsilon {epsilon} is too small for delta {delta}: no release at all "
                "fits below it; raise epsilon or delta"
            )
    return low
