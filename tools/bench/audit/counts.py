"""The counts alone, hundreds of thousands of times: sharp without any assumption.

A table with one cell per device stands for as many devices: noise is drawn for each cell by itself,
so cell i of every column's table is what device i would have sent for its canary's codes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from audit.alone import pay, tell_apart
from audit.canary import Verdict
from audit.device import Recorder, digest
from edge_runtime.privacy import release_counts

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
    paid = pay("counts", epsilon=epsilon, sensitivity_squared=_COLUMNS)
    exact = np.repeat(np.array([1, 0], np.int64), devices)
    tables = release_counts(
        paid.entry,
        {f"one_way.{column}": exact for column in range(_COLUMNS)},
        sensitivity_squared=_COLUMNS,
        sigma=paid.sigma,
        noise=noise(digest(b"counts", str(seed).encode())),
    )
    scores = np.sum([table - 0.5 for table in tables.values()], axis=0)
    return tell_apart("counts", scores, claimed=paid.claimed, confidence=confidence)
