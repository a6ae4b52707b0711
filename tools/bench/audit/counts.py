"""The counts alone, hundreds of thousands of times: sharp without any assumption.

A table with one cell per device stands for as many devices: noise is drawn for each cell by itself,
so cell i of every column's table is what device i would have sent for its canary's codes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import numpy as np

from audit.canary import Verdict
from audit.device import DELTA, Recorder, digest
from edge_runtime.device.budget import counts_cost, counts_sigma
from edge_runtime.evaluation.audit import from_rates
from edge_runtime.evaluation.membership import area, true_positives_at
from edge_runtime.privacy import Ledger, release_counts

__all__ = ["attack_counts"]

_COLUMNS = 4


def attack_counts(
    epsilon: float | None,
    *,
    devices: int,
    seed: int,
    confidence: float = 0.95,
    noise: Callable[[bytes], Recorder] = Recorder,
) -> Verdict:
    """Tell devices with the canary from devices without it by their noisy counts.

    Parameters
    ----------
    epsilon : float or None
        What the counts may cost.
    devices : int
        On each side.
    seed : int
    confidence : float
        Of each bound.
    noise : callable
        Makes the noise from a seed: what a test breaks.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        ledger = Ledger(connection, epsilon_limit=epsilon, delta=DELTA)
        sigma = counts_sigma(
            sensitivity_squared=_COLUMNS,
            spent=ledger.rdp_spent(),
            epsilon_after=epsilon,
            delta=DELTA,
        )
        entry = ledger.spend(
            key="audit/counts",
            what="counts",
            rdp=counts_cost(sigma=sigma, sensitivity_squared=_COLUMNS) if sigma else None,
            details={},
        )
        claimed = ledger.epsilon_spent()
    finally:
        connection.close()
    exact = np.repeat(np.array([1, 0], np.int64), devices)
    tables = release_counts(
        entry,
        {f"one_way.{column}": exact for column in range(_COLUMNS)},
        sensitivity_squared=_COLUMNS,
        sigma=sigma,
        noise=noise(digest(b"counts", str(seed).encode())),
    )
    scores = np.sum([table - 0.5 for table in tables.values()], axis=0)
    inside, outside = scores[:devices], scores[devices:]
    return Verdict(
        view="counts",
        claimed=claimed,
        audited=from_rates(inside, outside, delta=DELTA, confidence=confidence, threshold=0.0),
        area=area(inside, outside),
        found=true_positives_at(inside, outside, 0.01),
        runs=2 * devices,
    )
