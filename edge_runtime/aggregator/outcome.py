"""The outcome given everything else, fitted to the fleet's merged counts.

Where every device has few rows and a signal is weak but shared (which day a storm blew, seen by
each airline a few times), each device smooths it away before its rows are pooled: its generator
learns p(outcome | rest) badly, though p(rest) well. Merged counts of (outcome, a, b) keep the
signal. So the outcome, the first condition column, is fitted anew, as a log-linear model

    log p(outcome = k | row) = bias[k] + sum over tables t of effect_t[cell_t(row), k] + constant

to the tables that contain it, over the pooled rows as the distribution of everything else: the
maximum-entropy model whose expected counts agree with the measured ones, which is what logistic
regression on all real rows together would find (Berger, Della Pietra and Della Pietra 1996).

Counts are noisy and cells are few. Every table's effects have a Gaussian prior whose variance is
estimated from the table itself (empirical Bayes: what its residuals exceed their error by), so a
table that says nothing new is not used, and one that says much is shrunk only a little. Tables
are taken in greedily, the one with the most evidence first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor, Table

__all__ = ["Outcome", "fit_outcome", "interaction_evidence"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: least Fisher information per row that a step divides by: cells without any variation
_LEAST_INFORMATION = 0.01
#: largest change of an effect in one visit: Newton's steps overshoot far from the optimum
_STEP = 1.0
_DAMPING = 0.7
#: passes over the tables taken in, after each new one and at the end
_SWEEPS, _LAST_SWEEPS = 2, 12
#: a table must lower the expected deviance by so many nats to be taken in
_LEAST_EVIDENCE = 12.0
#: and its residuals must exceed their error by so many standard deviations of what they exceed it
#: by when there is nothing: nats alone mean less, the more of the error is noise of the counts
_LEAST_SIGMAS = 2.5
_MOST_TABLES = 40
#: columns of which interactions are looked at: their number grows with the square
_MOST_COLUMNS = 24


class Outcome(NamedTuple):
    """A fitted model of one column.

    `probabilities` is float64 [n, K] for the rows it was fitted over; `tables` those that were
    taken in, in that order.
    """

    column: int
    probabilities: F64
    tables: tuple[tuple[int, ...], ...]


class _Effects:
    """One table, seen from the pooled rows.

    Attributes
    ----------
    cell : int64 [n]
        Cell of each row over the table's other columns.
    outcomes : float64 [cells, K]
        Measured counts.
    rows : float64 [cells]
        Measured rows, at least 0.
    """

    def __init__(self, table: Table, column: int, codes: npt.NDArray[np.int32], rows: F64) -> None:
        axis = table.columns.index(column)
        self.columns = table.columns
        others = [c for c in table.columns if c != column]
        shape = [size for i, size in enumerate(table.counts.shape) if i != axis]
        self.cell: I64 = np.ravel_multi_index(tuple(codes[:, c] for c in others), shape)
        self.outcomes = np.moveaxis(table.counts, axis, -1).reshape(-1, table.counts.shape[axis])
        self.rows: F64 = np.maximum(self.outcomes.sum(axis=1), 0.0)
        self.variance = table.variance
        self.mass = np.bincount(self.cell, rows, minlength=len(self.rows))
        self.used = (self.mass > 0) & (self.rows > 0)
        self.effect = np.zeros_like(self.outcomes)
        self.prior = 0.0

    def look(self, probabilities: F64, weights: F64) -> tuple[F64, F64, F64]:
        """Newton's step, its error variance and Fisher's information, each float64 [cells, K]."""
        expected = [
            np.bincount(self.cell, weights * probabilities[:, k], minlength=len(self.rows))
            for k in range(probabilities.shape[1])
        ]
        mean = np.stack(expected, axis=1) / np.maximum(self.mass, 1e-12)[:, None]
        information = self.rows[:, None] * np.maximum(mean * (1.0 - mean), _LEAST_INFORMATION)
        information = np.maximum(information, 1e-9)
        step = (self.outcomes - self.rows[:, None] * mean) / information
        # Sampling of the real rows, and the noise of the outcome's count and of the cell's rows.
        noise = self.variance * ((1.0 - mean) ** 2 + (self.outcomes.shape[1] - 1) * mean**2)
        error = 1.0 / information + noise / information**2
        step[~self.used] = 0.0
        return step, error, information

    def evidence(self, probabilities: F64, weights: F64) -> float:
        """Estimate what the table would add, in nats; sets the prior's variance."""
        step, error, information = self.look(probabilities, weights)
        used = np.broadcast_to(self.used[:, None], step.shape)
        precision = np.where(used, 1.0 / error, 0.0)
        # Clipped: one cell of almost no rows must not speak for the whole table.
        square = np.minimum(step**2, 9.0)
        excess = float((precision * (square - error)).sum())
        self.prior = max(0.0, excess / max(float(precision.sum()), 1e-12))
        # Residuals of one cell add up to nothing: K of them are worth K - 1, each squared one of
        # variance 2 in units of its error.
        outcomes = step.shape[1]
        spread = np.sqrt(2.0 * max(1, int(used.sum())) * outcomes / max(1, outcomes - 1))
        if excess <= _LEAST_SIGMAS * spread:
            return 0.0
        kept = self.prior / (self.prior + error)
        gain = 0.5 * information * self.prior * kept
        return float(gain[used].sum())

    def update(self, probabilities: F64, weights: F64) -> F64:
        """Move the effects to their posterior mode given all others; the change [cells, K]."""
        step, error, _ = self.look(probabilities, weights)
        precision = 1.0 / error
        wanted = (step * precision - self.effect / self.prior) / (precision + 1.0 / self.prior)
        change = np.clip(_DAMPING * wanted, -_STEP, _STEP)
        change[~self.used] = 0.0
        self.effect += change
        return np.asarray(change)


def fit_outcome(
    codes: npt.NDArray[np.int32],
    weights: F64,
    anchor: Anchor,
    *,
    column: int = 0,
    select_rows: int = 20_000,
) -> Outcome | None:
    """Fit p(outcome | rest) to the anchor's tables.

    Parameters
    ----------
    codes : int32 [n, D]
        Pooled rows; their outcomes are not looked at.
    weights : float64 [n]
        How much each row counts.
    anchor : Anchor
        The merged counts.
    column : int
        The outcome.
    select_rows : int
        At most so many rows decide which tables are taken in.

    Returns
    -------
    Outcome or None
        None without a table over three columns or more: pairs alone, which devices' own
        conditioned rows know well, are not worth the loss of what the rows say about the outcome.
    """
    tables = [t for t in anchor.tables.values() if column in t.columns and len(t.columns) >= 2]
    if not any(len(t.columns) >= 3 for t in tables) or not len(codes):
        return None
    total = anchor.one_way(column)
    assert total is not None
    bias = np.log(np.maximum(total.distribution, 1e-4))
    taken = _select(codes, weights, tables, bias, column=column, rows=select_rows)
    if not any(len(effects.columns) >= 3 for effects in taken):
        return None
    fitted = [_Effects(anchor.tables[e.columns], column, codes, weights) for e in taken]
    logits = np.broadcast_to(bias, (len(codes), len(bias))).copy()
    for effects, chosen in zip(fitted, taken, strict=True):
        effects.prior = chosen.prior
        effects.effect = chosen.effect.copy()
        logits += effects.effect[effects.cell]
    _sweep(fitted, logits, weights, _LAST_SWEEPS)
    return Outcome(column, _softmax(logits), tuple(effects.columns for effects in fitted))


def _select(
    codes: npt.NDArray[np.int32],
    weights: F64,
    tables: Sequence[Table],
    bias: F64,
    *,
    column: int,
    rows: int,
) -> list[_Effects]:
    """Take tables in, the one with the most evidence first, until none has enough."""
    # Every so-manieth row: the pool is ordered by device, and all of them are to have a say.
    some = slice(None, None, max(1, len(codes) // rows))
    part, share = codes[some], weights[some]
    left = [_Effects(table, column, part, share) for table in tables]
    taken: list[_Effects] = []
    logits = np.broadcast_to(bias, (len(part), len(bias))).copy()
    while left and len(taken) < _MOST_TABLES:
        probabilities = _softmax(logits)
        evidence = [effects.evidence(probabilities, share) for effects in left]
        best = int(np.argmax(evidence))
        if evidence[best] < _LEAST_EVIDENCE:
            break
        taken.append(left.pop(best))
        _sweep([taken[-1]], logits, share, 3)
        _sweep(taken, logits, share, _SWEEPS)
    return taken


def _sweep(taken: Sequence[_Effects], logits: F64, weights: F64, sweeps: int) -> None:
    for _ in range(sweeps):
        for effects in taken:
            change = effects.update(_softmax(logits), weights)
            logits += change[effects.cell]


def _softmax(logits: F64) -> F64:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def interaction_evidence(
    codes: npt.NDArray[np.int32],
    weights: F64,
    cardinalities: Sequence[int],
    *,
    rows: float,
    column: int = 0,
    variance: float = 0.0,
) -> list[tuple[float, tuple[int, ...]]]:
    """Estimate what each table (outcome, a, b) would add over its pairs, by the pool alone.

    The pool has lost much of a weak signal, but what is left of it tells where to measure: the
    planner asks for the tables that come first.

    Parameters
    ----------
    codes : int32 [n, D]
        Pooled rows.
    weights : float64 [n]
    cardinalities : sequence of int
        Codes per column.
    rows : float
        Real rows that would be counted.
    column : int
        The outcome.
    variance : float
        Of the noise that a merged count would carry.

    Returns
    -------
    list of (float, tuple of int)
        Nats and table, the best first; tables of more cells than rows are left out.
    """
    scale = rows / max(float(weights.sum()), 1e-12)
    others = [d for d in range(len(cardinalities)) if d != column and cardinalities[d] > 1]
    outcomes = cardinalities[column]

    def counted(columns: tuple[int, ...]) -> Table:
        shape = tuple(cardinalities[d] for d in columns)
        cells = np.ravel_multi_index(tuple(codes[:, d] for d in columns), shape)
        size = int(np.prod(shape))
        counts = np.bincount(cells, weights, size).reshape(shape) * scale
        return Table(columns, np.asarray(counts, np.float64), 0.0)

    bias = np.log(np.maximum(counted((column,)).distribution, 1e-4))
    # As many pooled rows as there are real ones, or fewer: their own sampling error counts.
    sampling = max(1.0, rows / len(codes))
    pairs = {d: counted(_ordered(column, d)) for d in others}
    others = _telling(others, pairs, codes=codes, weights=weights, bias=bias, column=column)
    found = []
    for index, a in enumerate(others):
        for b in others[index + 1 :]:
            if outcomes * cardinalities[a] * cardinalities[b] > rows:
                continue
            mains = [_Effects(pairs[d], column, codes, weights) for d in (a, b)]
            logits = np.broadcast_to(bias, (len(codes), outcomes)).copy()
            for effects in mains:
                effects.evidence(_softmax(logits), weights)
                effects.prior = effects.prior or 1e-6
                _sweep([effects], logits, weights, 3)
            _sweep(mains, logits, weights, 2)
            both = counted(_ordered(column, a, b))
            noisy = Table(both.columns, both.counts, variance)
            effects = _Effects(noisy, column, codes, weights)
            step, error, information = effects.look(_softmax(logits), weights)
            square = np.where(effects.used[:, None], np.minimum(step**2, 9.0), 0.0)
            own = sampling / information
            signal = max(0.0, float(((square - own) * information).sum()))
            signal /= max(float(information[effects.used].sum()), 1e-12)
            kept = signal / (signal + error)
            gain = float((0.5 * information * signal * kept)[effects.used].sum())
            found.append((gain, both.columns))
    # Of those that the pool says nothing about, small tables first: they are the least noisy.
    return sorted(found, key=lambda f: (-f[0], math.prod(cardinalities[d] for d in f[1]), f[1]))


def _telling(
    others: Sequence[int],
    mains: Mapping[int, Table],
    *,
    codes: npt.NDArray[np.int32],
    weights: F64,
    bias: F64,
    column: int,
) -> list[int]:
    """Return the columns that tell most of the outcome alone, where there are too many to pair."""
    if len(others) <= _MOST_COLUMNS:
        return list(others)
    probabilities = np.broadcast_to(_softmax(bias[None, :]), (len(codes), len(bias)))
    evidence = {
        d: _Effects(mains[d], column, codes, weights).evidence(probabilities, weights)
        for d in others
    }
    return sorted(sorted(others, key=lambda d: -evidence[d])[:_MOST_COLUMNS])


def _ordered(*columns: int) -> tuple[int, ...]:
    return tuple(sorted(columns))
