"""Whether a batch's columns follow each other as in the generator its device started from.

Shuffled columns keep every single table, and noise keeps those whose bins are equally full. What
both lack is how columns follow each other. Few such tables are counted; but the device started
from a generator that knows them, and training on real rows adds to what it knows. So each row is
given its pointwise total correlation under that generator (Watanabe 1960),

    r(x) = log p(x) - sum_d log p_d(x_d),

and what the batch's mean loses when its columns are shuffled is held against what rows of the
generator with the same single columns (found by raking: Deming and Stephan 1940) lose. So neither
label skew nor carriers with airports of their own matter. A batch that shows any dependence
of its own, liked by the generator or not, is never held to be shuffled: a permutation test over
pairs of columns must agree.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.guard.batches import Finding
from edge_runtime.generator import Bundle, open_engine, sample_codes
from edge_runtime.training import make_step

__all__ = ["Parent", "Relation", "judge_relations", "relation_of"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: rows below which nothing is said, and rows of a larger batch that are looked at
_FEW_ROWS, _MOST_ROWS = 30, 1000

#: times the columns are shuffled
_SHUFFLES = 16

#: rows of the generator, shuffled, that its own loss is measured with
_BASE_ROWS = 4000

#: nats to which one row's total correlation is cut: no single row decides
_CUT_NATS = 8.0

#: rounds of raking
_RAKES = 6

#: effective rows of the generator with the batch's single columns, at least
_LIKE_ROWS = 30.0

#: what is expected must exceed its own error by so much
_CERTAIN = 4.0

#: deviations of the shuffled columns' own from which on dependence is visible
_VISIBLE = 4.0

#: pairs of columns that the permutation test looks at, at most
_PAIRS = 300


class Relation(NamedTuple):
    """What a batch shows; several are added up by `_together`.

    `found` and `expected` are sums over the rows, in nats that shuffling its columns costs: the
    batch and rows of the generator like it; `variance` and `expected_variance` theirs. `visible` is
    the permutation test's figure in standard deviations.
    """

    rows: int
    found: float
    expected: float
    variance: float
    expected_variance: float
    visible: float

    @property
    def kept(self) -> float:
        """Share of the dependence that is there."""
        return self.found / self.expected if self.expected > 0 else 1.0


class _Rows(NamedTuple):
    """Rows of a generator, int32 [n, D], and the total correlation of each, float64 [n]."""

    codes: I32
    correlation: F64


class _Like(NamedTuple):
    """Rows with weights of sum 1."""

    codes: I32
    correlation: F64
    weights: F64


class Parent:
    """A generator that devices start from.

    Parameters
    ----------
    bundle : Bundle
        As it was published.
    rows : int
        Rows of it that batches are compared with.
    """

    def __init__(self, bundle: Bundle, *, rows: int) -> None:
        self._bundle = bundle
        self._step = make_step(bundle.layout)
        self.cardinalities = bundle.layout.cardinalities
        self._conditions = bundle.codec.schema.conditions
        codes = self._sample(rows)
        self._single = [
            np.log((np.bincount(codes[:, d], minlength=size) + 0.5) / (rows + 0.5 * size))
            for d, size in enumerate(self.cardinalities)
        ]
        self._rows = _Rows(codes, self.correlations(codes))

    def _sample(self, rows: int, like: I32 | None = None) -> I32:
        """Draw rows, as many as asked or more, with the conditions of other rows if given."""
        clamp = None
        if like is not None:
            times = math.ceil(rows / len(like))
            rows = times * len(like)
            clamp = {d: np.tile(like[:, d], times) for d in self._conditions}
        engine = open_engine(self._bundle)
        try:
            key = bytes.fromhex(self._bundle.digest)
            return sample_codes(engine, rows, key=key, clamp=clamp)
        finally:
            engine.close()

    def correlations(self, codes: I32) -> F64:
        """Return the total correlation of rows int32 [n, D] in nats, cut: float64 [n]."""
        single = sum(
            (logs[codes[:, d]] for d, logs in enumerate(self._single)), np.zeros(len(codes))
        )
        joint = -np.asarray(self._step.nll(self._bundle.weights, codes), np.float64)
        return np.clip(joint - single, -_CUT_NATS, _CUT_NATS)

    def like(self, codes: I32, single: Sequence[F64]) -> _Like | None:
        """Weigh the generator's rows so that they have a batch's single columns.

        Parameters
        ----------
        codes : int32 [n, D]
            The batch.
        single : sequence of float64 [K_d]
            Its shares of the codes, by column.

        Returns
        -------
        _Like or None
            None when the generator has no such rows, or too few carry all the weight.
        """
        found = _raked(self._rows, single)
        if found is None and self._conditions:
            # Of one class on each of many devices a tenth of the rows is not enough.
            drawn = self._sample(len(self._rows.codes), codes)
            found = _raked(_Rows(drawn, self.correlations(drawn)), single)
        return found


def _raked(rows: _Rows, single: Sequence[F64]) -> _Like | None:
    weights = np.full(len(rows.codes), 1 / len(rows.codes))
    for _ in range(_RAKES):
        for d, want in enumerate(single):
            have = np.bincount(rows.codes[:, d], weights, minlength=len(want))
            factor = np.divide(want, have, out=np.zeros_like(want), where=have > 0)
            weights = weights * factor[rows.codes[:, d]]
            total = float(weights.sum())
            if total <= 0:
                return None
            weights /= total
    if 1 / float((weights**2).sum()) < _LIKE_ROWS:
        return None
    return _Like(rows.codes, rows.correlation, weights)


def relation_of(codes: I32, parent: Parent) -> Relation | None:
    """Compare a batch with the generator its device started from.

    Parameters
    ----------
    codes : int32 [n, D]
        The batch.
    parent : Parent
        The generator.

    Returns
    -------
    Relation or None
        None when there are too few rows, or the generator has none like them. The same for the
        same batch: its shuffles are seeded by its rows.
    """
    if len(codes) < _FEW_ROWS:
        return None
    seed = hashlib.sha256(np.ascontiguousarray(codes).tobytes()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    codes = codes[rng.permutation(len(codes))[:_MOST_ROWS]]
    n = len(codes)
    single = [
        np.bincount(codes[:, d], minlength=size) / n for d, size in enumerate(parent.cardinalities)
    ]
    like = parent.like(codes, single)
    if like is None:
        return None
    shuffles = [rng.permuted(codes, axis=0) for _ in range(_SHUFFLES)]
    own = parent.correlations(codes)
    by_chance = np.array([parent.correlations(one).mean() for one in shuffles])
    shuffled = float(by_chance.mean())
    found = float((like.weights * like.correlation).sum())
    # Shuffled rows of the generator, not of the batch: it may have codes that no such row has.
    drawn = like.codes[rng.choice(len(like.codes), _BASE_ROWS, p=like.weights)]
    base = parent.correlations(rng.permuted(drawn, axis=0))
    variance = float(own.var()) / n + float(by_chance.var(ddof=1)) / _SHUFFLES
    pairs = _pairs(len(single))
    strengths = np.array([_strength(one, single, pairs) for one in shuffles])
    spread = max(float(strengths.std(ddof=1)), 1e-12)
    return Relation(
        rows=n,
        found=n * (float(own.mean()) - shuffled),
        expected=n * (found - float(base.mean())),
        variance=n**2 * variance,
        expected_variance=n**2
        * (
            float((like.weights**2 * (like.correlation - found) ** 2).sum())
            + float(base.var()) / _BASE_ROWS
        ),
        visible=(_strength(codes, single, pairs) - float(strengths.mean())) / spread,
    )


def judge_relations(
    relations: Sequence[Relation], *, least: float, false_alarms: float
) -> Finding | None:
    """Judge one batch, or a device's last batches together.

    Parameters
    ----------
    relations : sequence of Relation
        Of all of them.
    least : float
        Share of the generator's dependence that must be kept.
    false_alarms : float
        Probability of a finding where just that is kept.

    Returns
    -------
    Finding or None
        Of kind "relations".
    """
    if not relations:
        return None
    one = _together(relations)
    if one.expected <= _CERTAIN * math.sqrt(one.expected_variance) or one.visible >= _VISIBLE:
        return None
    error = math.sqrt(one.variance + least**2 * one.expected_variance) / one.expected
    reach = NormalDist().inv_cdf(1 - false_alarms) * error
    if one.kept + reach >= least:
        return None
    where = f"in its device's last {len(relations)} batches together " if relations[1:] else ""
    return Finding(
        "relations",
        f"how its columns follow each other is kept {where}to {one.kept:+z.0%} of what rows of the "
        f"generator it started from show with the same single columns (0 % is shuffled columns or "
        f"noise), at least {least:.0%} is expected; sampling explains {reach:.0%}",
        one.kept,
        1.0,
        least,
    )


def _together(relations: Sequence[Relation]) -> Relation:
    return Relation(
        rows=sum(r.rows for r in relations),
        found=sum(r.found for r in relations),
        expected=sum(r.expected for r in relations),
        variance=sum(r.variance for r in relations),
        expected_variance=sum(r.expected_variance for r in relations),
        visible=sum(r.visible for r in relations) / math.sqrt(len(relations)),
    )


def _pairs(columns: int) -> list[tuple[int, int]]:
    every = list(itertools.combinations(range(columns), 2))
    return every[:: math.ceil(len(every) / _PAIRS)] if every else []


def _strength(codes: I32, single: Sequence[F64], pairs: Sequence[tuple[int, int]]) -> float:
    """Sum over pairs of columns of their mean square contingency; empty cells weigh little."""
    n, total = len(codes), 0.0
    for a, b in pairs:
        size = len(single[b])
        cells = np.bincount(codes[:, a] * size + codes[:, b], minlength=len(single[a]) * size) / n
        alone = np.outer(single[a], single[b]).ravel()
        total += float(((cells - alone) ** 2 / (alone + 1 / n)).sum())
    return total
