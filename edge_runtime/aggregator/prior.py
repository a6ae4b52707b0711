"""Rows drawn from the anchor alone: the outcome, and every column given the outcome.

Columns with moments vary together, as a normal distribution of their scores does; the others are
independent given the outcome. Of windows, a column of a later step is drawn given the same column a
step before, where the two were counted together.

What the fleet knows before any device's generator: with few rows a device, or little budget, it
is most of what can be known. Each column's distribution given the outcome is shrunk towards its
distribution over all rows by as much as the counts are noisy (empirical Bayes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor, Table, project_to_simplex
from edge_runtime.aggregator.moments import Moments
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.kernel import fill_normal, fill_uniform

__all__ = ["ANCHOR_ROWS", "prior_rows", "shares_given", "with_prior"]

F64 = npt.NDArray[np.float64]

#: stands where a device's id does; no device can have it
ANCHOR_ROWS = "(anchor)"

#: public: rows drawn from the same counts are the same wherever they are drawn
_KEY = hashlib.sha256(b"edge-runtime rows from the anchor").digest()
_LOT = hashlib.sha256(b"edge-runtime lots of rows from the anchor").digest()
#: rows drawn: enough that their own sampling error does not matter beside the counts' noise
_LEAST_ROWS, _MOST_ROWS = 50_000, 200_000

#: stream of normal numbers; columns have those of their own numbers
_TOGETHER = 1 << 20


def prior_rows(
    anchor: Anchor,
    cardinalities: Sequence[int],
    conditions: Sequence[int],
    rows: int,
    *,
    moments: Moments | None = None,
    before: Mapping[int, int] | None = None,
) -> npt.NDArray[np.int32]:
    """Draw rows from the fleet's summaries.

    Parameters
    ----------
    anchor : Anchor
        The merged counts; a column in none of its tables is drawn evenly.
    cardinalities : sequence of int
        Codes per column, D of them.
    conditions : sequence of int
        Condition columns; without any all columns are independent.
    rows : int
        How many.
    moments : Moments, optional
        Given the first condition column; columns that it leaves out are independent given it.
    before : mapping of int to int, optional
        Of windows, see `edge_runtime.schema.following`.

    Returns
    -------
    int32 [rows, D]
        The same for the same anchor, on any machine.
    """
    codes = np.empty((rows, len(cardinalities)), np.int32)
    outcome = conditions[0] if conditions else None
    given = np.zeros(rows, np.intp)
    if outcome is not None:
        table = anchor.one_way(outcome)
        share = np.full(cardinalities[outcome], 1.0) if table is None else table.distribution
        given = _draw(share[None, :], given, stream=outcome)
        codes[:, outcome] = given
    together = () if moments is None or moments.given != outcome else moments.columns
    if moments is not None and together:
        codes[:, list(together)] = _draw_together(moments, given, anchor, cardinalities)
    for column, cardinality in enumerate(cardinalities):
        if column == outcome or column in together:
            continue
        earlier = (before or {}).get(column)
        if earlier is not None and anchor.marginal((earlier, column)) is not None:
            shares = _shares(anchor, column, earlier, cardinality)
            at = codes[:, earlier].astype(np.intp)
        else:
            shares, at = _shares(anchor, column, outcome, cardinality), given
        at = at if len(shares) > 1 else np.zeros(rows, np.intp)
        codes[:, column] = _draw(shares, at, stream=column)
    return codes


def with_prior(
    pool: PoolRows,
    rows_of: Mapping[str, float],
    anchor: Anchor | None,
    share: float,
    *,
    cardinalities: Sequence[int],
    conditions: Sequence[int],
    moments: Moments | None = None,
    before: Mapping[int, int] | None = None,
) -> tuple[PoolRows, dict[str, float]]:
    """Add rows from the anchor to the pool, as if one more device had sent them.

    Parameters
    ----------
    pool : PoolRows
        Possibly empty: then rows from the anchor are all there is.
    rows_of : mapping of str to float
        Noisy rows by device.
    anchor : Anchor or None
        Without one, or with a share of 0, nothing changes.
    share : float
        Of all weight that the added rows have, 0 to below 1.
    cardinalities, conditions, moments, before
        As for `prior_rows`.

    Returns
    -------
    PoolRows, dict of str to float
        With the device `ANCHOR_ROWS`, of round 0, behind all others.
    """
    if anchor is None or share <= 0:
        return pool, dict(rows_of)
    count = min(_MOST_ROWS, max(_LEAST_ROWS, len(pool.codes)))
    codes = prior_rows(anchor, cardinalities, conditions, count, moments=moments, before=before)
    held = sum(max(0.0, rows_of.get(device, 0.0)) for device in pool.devices)
    lot = np.empty(count, np.float32)
    fill_uniform(lot, key=_LOT, stream=0)
    grown = PoolRows(
        codes=np.concatenate([pool.codes, codes]),
        device=np.concatenate([pool.device, np.full(count, len(pool.devices), np.int32)]),
        devices=(*pool.devices, ANCHOR_ROWS),
        round=np.concatenate([pool.round, np.zeros(count, np.int32)]),
        lot=np.concatenate([pool.lot, lot]),
    )
    return grown, {**rows_of, ANCHOR_ROWS: max(1.0, share / (1 - share) * held)}


def _shares(anchor: Anchor, column: int, outcome: int | None, cardinality: int) -> F64:
    if outcome is not None:
        both = anchor.marginal(tuple(sorted((outcome, column))))
        if both is not None:
            return shares_given(both, outcome)
    alone = anchor.one_way(column)
    if alone is None:
        return np.full((1, cardinality), 1.0 / cardinality)
    return alone.distribution[None, :]


def shares_given(table: Table, outcome: int) -> F64:
    """Distribution of the other column of a pair table given the outcome, float64 [K_o, K].

    Row o is the posterior mean of a distribution whose prior has the mean of all rows and a
    variance, proportional to it, that is estimated from how far the rows of the table differ
    beyond their noise and sampling error; then the nearest probabilities.
    """
    counts = table.counts if table.columns[0] == outcome else table.counts.T
    overall = project_to_simplex(counts.sum(axis=0) / max(1.0, counts.sum()))
    rows = np.maximum(counts.sum(axis=1), 1.0)[:, None]
    share = counts / rows
    error = table.variance / rows**2 + overall * (1.0 - overall) / rows
    # Weighed by rows: outcomes that are rare say little about how much outcomes differ. The mean
    # that they differ from has a part of each in it, of its error as of its own difference: with
    # two outcomes of even weight half of both is lost in it.
    weight = rows / rows.sum()
    excess = float((weight * ((share - overall) ** 2 - (1.0 - weight) * error)).sum())
    apart = 1.0 - float((weight**2).sum())
    spread = max(0.0, excess) / max(apart, 1e-9) * overall
    kept = np.divide(spread, spread + error, out=np.zeros_like(error), where=spread > 0)
    return np.stack([project_to_simplex(row) for row in overall + kept * (share - overall)])


def _draw_together(
    moments: Moments, given: npt.NDArray[np.intp], anchor: Anchor, cardinalities: Sequence[int]
) -> npt.NDArray[np.int32]:
    """Draw scores, and for each the code of the nearest score.

    Not by ranks within the column's own distribution: single counts carry the noise of every
    cell, while means and variances are few numbers and say where a condition's rows lie.

    Returns
    -------
    int32 [rows, d]
    """
    width = len(moments.columns)
    rows = len(given)
    normal = np.empty(rows * width, np.float32)
    fill_normal(normal, key=_KEY, stream=_TOGETHER)
    drawn = normal.reshape(rows, width).astype(np.float64)
    for code, (centre, covariance) in enumerate(
        zip(moments.centres, moments.covariances, strict=True)
    ):
        own = given == code
        drawn[own] = centre + drawn[own] @ np.linalg.cholesky(covariance).T
    codes = np.empty((rows, width), np.int32)
    for at, column in enumerate(moments.columns):
        scores = np.array(moments.scores[at])
        if column in moments.nullable:
            scores = scores[:-1]
        middles = (scores[:-1] + scores[1:]) / 2
        codes[:, at] = np.searchsorted(middles, drawn[:, at], side="right")
        if column in moments.nullable:
            lost = float(_shares(anchor, column, None, cardinalities[column])[0][-1])
            gone = _draw(np.array([[1.0 - lost, lost]]), np.zeros(rows, np.intp), stream=column)
            codes[gone == 1, at] = cardinalities[column] - 1
    return codes


def _draw(shares: F64, given: npt.NDArray[np.intp], *, stream: int) -> npt.NDArray[np.intp]:
    edges = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    uniform = np.empty(len(given), np.float32)
    fill_uniform(uniform, key=_KEY, stream=stream)
    return np.asarray((uniform[:, None] >= edges[given, :-1]).sum(axis=1))
