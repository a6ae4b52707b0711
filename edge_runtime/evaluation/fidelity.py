"""How close two tables are, column by column and pair by pair, by SDMetrics' metrics.

Shapes: Kolmogorov-Smirnov complement for numbers, total-variation complement for categories.
Pairs: correlation similarity for two numbers, contingency similarity otherwise, with numbers in
ten equal-width bins of the real rows. That is SDMetrics' quality report over ALL pairs; its
newer releases leave weakly related pairs out of the report by default, which would make figures
depend on the release installed. 1 is best. The score of real rows against other real rows stands
beside each figure: no honest generator can be expected to beat it.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import EvaluationError, MissingExtraError
from edge_runtime.evaluation.frames import Frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Fidelity", "PairScore", "measure_fidelity"]

#: SDMetrics' own number of bins for numbers in a contingency table
_BINS = 10


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """How well one pair of columns is kept; `metric` is correlation or contingency."""

    a: str
    b: str
    metric: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The scores of one table against the real one.

    Parameters
    ----------
    shapes, pairs : float
        Means over columns and over pairs.
    columns : dict of str to float
    pair_scores : tuple of PairScore
    rows : int
        Rows compared on each side.
    """

    shapes: float
    pairs: float
    columns: dict[str, float]
    pair_scores: tuple[PairScore, ...]
    rows: int


def measure_fidelity(
    real: Frame, other: Frame, *, max_rows: int = 50_000, seed: int = 0
) -> Fidelity:
    """Score `other` against `real` on at most `max_rows` rows of each.

    The same number of rows is drawn from both, because the scores of finite samples grow with
    the rows: unequal sizes would favour whoever sends more.

    Raises
    ------
    MissingExtraError
        SDMetrics is not installed.
    EvaluationError
        A table has no rows.
    """
    rows = min(real.rows, other.rows, max_rows)
    if rows == 0:
        raise EvaluationError("a table without rows cannot be compared")
    metrics = _Metrics()
    a = real.sample(rows, seed=seed)
    b = other.sample(rows, seed=seed + 1)
    numbers_a, numbers_b = a.to_pandas(), b.to_pandas()
    binned_a, binned_b = _binned(a, b)
    columns: dict[str, float] = {}
    pairs: list[PairScore] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SDMetrics' own deprecations
        for name in a.schema.names:
            if name in a.numbers:
                columns[name] = metrics.number(numbers_a[name], numbers_b[name])
            else:
                columns[name] = metrics.category(numbers_a[name], numbers_b[name])
        for one, two in itertools.combinations(a.schema.names, 2):
            names = [one, two]
            if one in a.numbers and two in a.numbers:
                kind, score = "correlation", metrics.correlation(numbers_a[names], numbers_b[names])
            else:
                kind, score = "contingency", metrics.contingency(binned_a[names], binned_b[names])
            pairs.append(PairScore(a=one, b=two, metric=kind, score=score))
    return Fidelity(
        shapes=_mean(list(columns.values())),
        pairs=_mean([pair.score for pair in pairs]),
        columns=columns,
        pair_scores=tuple(pairs),
        rows=rows,
    )


class _Metrics:
    """SDMetrics' four metrics, defined where they are not: on constant and empty columns."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations inside the package's own imports
                from sdmetrics import column_pairs, single_column  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("sdmetrics", "aggregator") from error
        self._pairs, self._columns = column_pairs, single_column

    def number(self, real: pandas.Series, other: pandas.Series) -> float:
        """Return the KS complement of the known values; 0 when only one table has any."""
        known = real.notna().any(), other.notna().any()
        if not all(known):
            return 0.0 if any(known) else 1.0
        return float(self._columns.KSComplement.compute(real, other))

    def category(self, real: pandas.Series, other: pandas.Series) -> float:
        """Return the total-variation complement; missing is a category."""
        return float(self._columns.TVComplement.compute(real, other))

    def correlation(self, real: pandas.DataFrame, other: pandas.DataFrame) -> float:
        """Return the correlation similarity; NaN when the real columns have no correlation.

        A constant column in the other table has lost the relation, so its correlation counts as
        0: leaving the pair out would reward a generator for collapsing.
        """
        real, other = real.dropna(), other.dropna()
        if len(real) < 2 or (real.nunique() < 2).any():
            return float("nan")
        if len(other) < 2 or (other.nunique() < 2).any():
            return 1.0 - abs(float(real.corr().iloc[0, 1])) / 2.0
        return float(self._pairs.CorrelationSimilarity.compute(real, other))

    def contingency(self, real: pandas.DataFrame, other: pandas.DataFrame) -> float:
        """Return the contingency similarity of two tables of codes."""
        return float(self._pairs.ContingencySimilarity.compute(real, other))


def _mean(scores: list[float]) -> float:
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def _binned(real: Frame, other: Frame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Put numbers of both tables into ten equal-width bins over the real rows' range."""
    one, two = real.to_pandas(), other.to_pandas()
    for name, values in real.numbers.items():
        known = values[~np.isnan(values)]
        edges = np.histogram_bin_edges(known, bins=_BINS) if known.size else np.array([0.0, 1.0])
        # A missing value is a bin of its own: -1 in both tables.
        for table, column in ((one, values), (two, other.numbers[name])):
            code = np.digitize(column, edges)
            table[name] = np.where(np.isnan(column), -1, code)
    return one, two
