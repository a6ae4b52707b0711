"""The pool, matched to the anchor: how much each row counts, and what its outcome is.

Weights keep to rows as devices sent them. The outcome (the first condition column) is drawn anew
for each use of a row where merged counts of three columns or more say more about it than any
device could know (`edge_runtime.aggregator.outcome`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor
from edge_runtime.aggregator.outcome import Outcome, fit_outcome
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.aggregator.weighting import device_weights, rake
from edge_runtime.kernel import fill_uniform

__all__ = ["Matched", "match_pool"]

F64 = npt.NDArray[np.float64]


class Matched(NamedTuple):
    """Weights float64 [n], mean 1, and the model of the outcome, if there is one."""

    weights: F64
    outcome: Outcome | None

    def take(
        self, codes: npt.NDArray[np.int32], chosen: npt.NDArray[np.intp], *, key: bytes
    ) -> npt.NDArray[np.int32]:
        """Return chosen rows, each with an outcome of its own.

        Parameters
        ----------
        codes : int32 [n, D]
            The rows that were matched.
        chosen : intp [m]
            Indices, repeated ones allowed.
        key : bytes
            32 public bytes: the same key draws the same outcomes.

        Returns
        -------
        int32 [m, D]
        """
        rows = np.ascontiguousarray(codes[chosen])
        if self.outcome is not None:
            uniform = np.empty(len(chosen), np.float32)
            fill_uniform(uniform, key=key, stream=0)
            edges = np.cumsum(self.outcome.probabilities, axis=1)[chosen]
            # The last edge is one up to rounding; whoever lies above it gets the last outcome.
            drawn = (uniform[:, None] >= edges[:, :-1]).sum(axis=1)
            rows[:, self.outcome.column] = drawn
        return rows


def match_pool(
    pool: PoolRows,
    rows_of: Mapping[str, float],
    anchor: Anchor | None,
    *,
    raked: bool,
    conditions: Sequence[int],
) -> Matched:
    """Match the pool to the anchor.

    Parameters
    ----------
    pool : PoolRows
        All rows.
    rows_of : mapping of str to float
        Noisy rows by device.
    anchor : Anchor or None
        The fleet's merged counts.
    raked : bool
        Whether the anchor is to be followed at all; without it rows count by their devices.
    conditions : sequence of int
        The condition columns; the first one is the outcome.
    """
    weights = device_weights(pool, rows_of)
    if not raked or anchor is None or not len(pool.codes):
        return Matched(weights, None)
    outcome = fit_outcome(pool.codes, weights, anchor, column=conditions[0]) if conditions else None
    if outcome is None:
        return Matched(rake(pool.codes, weights, anchor), None)
    return Matched(rake(pool.codes, weights, anchor.without(outcome.column)), outcome)
