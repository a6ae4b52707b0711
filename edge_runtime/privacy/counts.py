"""Noisy counts: the exact discrete Gaussian mechanism on tables of integers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import LedgerError
from edge_runtime.privacy.accountant import rdp_gaussian
from edge_runtime.privacy.ledger import Entry

if TYPE_CHECKING:
    from edge_runtime.kernel import PrivacyNoise

__all__ = ["release_counts", "round_sigma"]

I64 = NDArray[np.int64]

#: Noise scales are multiples of this, so that the exact sampler works on small fractions.
_DENOMINATOR = 1024


def round_sigma(sigma: float) -> Fraction:
    """Round a standard deviation up to a multiple of 1/1024, the form the exact sampler takes."""
    if not (math.isfinite(sigma) and sigma > 0.0):
        raise ValueError(f"sigma {sigma} is not a positive number")
    return Fraction(math.ceil(sigma * _DENOMINATOR), _DENOMINATOR)


def release_counts(
    entry: Entry,
    counts: Mapping[str, I64],
    *,
    sensitivity_squared: float,
    sigma: Fraction,
    noise: PrivacyNoise,
) -> dict[str, I64]:
    """Add exact discrete Gaussian noise to tables of counts that were paid for.

    All tables of one call are one release: together one row changes them by at most
    `sqrt(sensitivity_squared)` in L2. Canonne, Kamath, Steinke 2020, Theorem 14.

    Parameters
    ----------
    entry : Entry
        What `Ledger.spend` returned for this release; it must cover the cost of `sigma`.
    counts : mapping of int64 arrays, any shape
    sensitivity_squared : float
        Squared L2 norm of what one row adds to all tables together.
    sigma : Fraction
        Standard deviation per cell; 0 only with an entry without privacy.
    noise : PrivacyNoise

    Returns
    -------
    dict of int64 arrays of the same shapes

    Raises
    ------
    LedgerError
        If the entry was released before or paid for less than this release costs.
    """
    if entry.released:
        raise LedgerError(f"{entry.key!r} was released before; noise is never drawn twice for it")
    if sigma == 0:
        if entry.rdp is not None:
            raise LedgerError(f"{entry.key!r} paid for noisy counts, not for exact ones")
        return {name: table.copy() for name, table in counts.items()}
    cost = rdp_gaussian(float(sigma) / math.sqrt(sensitivity_squared))
    if not entry.covers(cost):
        raise LedgerError(
            f"{entry.key!r} paid for less than counts with sigma {float(sigma):.4g} cost; "
            "spend the cost of this sigma first"
        )
    noisy: dict[str, I64] = {}
    for name, table in counts.items():
        draws = np.empty(table.size, dtype=np.int64)
        noise.discrete_gaussian(draws, sigma=sigma)
        noisy[name] = table + draws.reshape(table.shape)
    return noisy
