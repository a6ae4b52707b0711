"""How much each pooled row counts: by its device's size, then raked towards the anchor.

A device sends a number of rows that the plan decides, not the number it holds, so its rows are
first weighted by its noisy row count. Raking then corrects what every device alone smoothed away:
signals too weak for one device survive in the merged counts (iterative proportional fitting,
Deming and Stephan 1940), with each cell trusted by as much as it exceeds its noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor, Table
from edge_runtime.aggregator.pool import PoolRows

__all__ = ["device_weights", "rake"]

Float = npt.NDArray[np.float64]

#: a row's weight stays within this factor of its device's, however the cells pull
_MOST = 5.0


def device_weights(pool: PoolRows, rows_of: Mapping[str, float]) -> Float:
    """Weights float64 [n], mean 1, so that a device's total follows its noisy row count.

    Parameters
    ----------
    pool : PoolRows
        All rows.
    rows_of : mapping of str to float
        Noisy rows by device; a device that is missing (it joined after the census) or has less
        than one counts by the rows it sent, at the fleet's mean weight.
    """
    if not len(pool.codes):
        return np.empty(0)
    sent = np.bincount(pool.device, minlength=len(pool.devices)).astype(np.float64)
    held = np.array([rows_of.get(device, 0.0) for device in pool.devices])
    known = (held >= 1) & (sent > 0)
    typical = held[known].sum() / sent[known].sum() if known.any() else 1.0
    each = np.where(known, held / np.maximum(sent, 1), typical)
    weights = each[pool.device]
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def rake(
    codes: npt.NDArray[np.int32], weights: Float, anchor: Anchor | None, *, sweeps: int = 12
) -> Float:
    """Weights float64 [n], mean 1, whose tables agree with the anchor as far as it can be trusted.

    Parameters
    ----------
    codes : int32 [n, D]
        Pooled rows.
    weights : float64 [n]
        Where raking starts.
    anchor : Anchor or None
        Nothing changes without one.
    sweeps : int
        Passes over all tables.
    """
    if anchor is None or not len(codes):
        return weights
    tables = list(anchor.tables.values())
    cells = [table.cells(codes) for table in tables]
    targets = _targets(tables, cells, weights)
    raked = weights.copy()
    for _ in range(sweeps):
        for cell, target in zip(cells, targets, strict=True):
            have = np.bincount(cell, raked, minlength=len(target)) / raked.sum()
            factor = np.divide(target, have, out=np.ones_like(target), where=have > 0)
            raked *= factor[cell]
        np.clip(raked, weights / _MOST, weights * _MOST, out=raked)
    return np.asarray(raked / raked.mean(), dtype=np.float64)


def _targets(
    tables: Sequence[Table], cells: Sequence[npt.NDArray[np.int64]], weights: Float
) -> list[Float]:
    """Each table's cell shares, between the pool's and the anchor's by their reliability.

    Empirical Bayes: the pool's share is the prior of a cell, its squared distance from the
    anchor beyond what noise explains is the prior's variance, proportional to the share (a
    relative error), and the posterior mean is the target.
    """
    targets = []
    for table, cell in zip(tables, cells, strict=True):
        prior = np.bincount(cell, weights, minlength=table.counts.size) / weights.sum()
        measured = table.counts.ravel() / table.rows
        noise = table.variance / table.rows**2
        excess = float(((measured - prior) ** 2 - noise).sum()) / max(float(prior.sum()), 1e-12)
        spread = max(0.0, excess) * prior
        trust = np.divide(spread, spread + noise, out=np.zeros_like(spread), where=spread > 0)
        target = np.maximum(prior + trust * (measured - prior), 0.0)
        targets.append(target / target.sum())
    return targets
