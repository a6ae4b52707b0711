"""Attack scores: whether they find what is there and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.membership import (
    Discriminant,
    area,
    closeness,
    shadow_scores,
    true_positives_at,
)


def test_the_area_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 9, 70), rng.integers(-2, 7, 50)
    labels = np.repeat([1, 0], [70, 50])
    peer = roc_auc_score(labels, np.concatenate([inside, outside]))
    assert area(inside, outside) == pytest.approx(peer, abs=1e-12)
    assert area([2.0], [1.0]) == 1.0
    with pytest.raises(EvaluationError, match="both sides"):
        area([], [1.0])


def test_true_positives_respect_the_rate() -> None:
    outside = np.arange(200.0)
    # Two of 200 may be called members: those with 198 and 199.
    assert true_positives_at([197.0, 197.5, 300.0], outside, 0.01) == pytest.approx(2 / 3)
    assert true_positives_at([199.0, 200.0], outside, 0.0) == 0.5
    assert true_positives_at(np.zeros(5), np.zeros(5), 0.5) == 0.0


def test_closeness_counts_columns_then_rows() -> None:
    rows = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 2]], np.int32)
    targets = np.array([[1, 1, 1], [1, 1, 3], [2, 2, 2]], np.int32)
    close = closeness(targets, rows)
    np.testing.assert_allclose(close, [3 + 0.999 / 4, 2 + 0.999 * 3 / 4, 1 + 0.999 / 4])
    with pytest.raises(EvaluationError, match="synthetic rows"):
        closeness(targets, rows[:0])


def test_shadow_runs_calibrate_each_row() -> None:
    """Rows differ in level and in how much taking part shows: the raw statistic says little."""
    rng = np.random.default_rng(0)
    coins = rng.random((80, 60)) < 0.5
    level, effect = rng.normal(0.0, 10.0, 60), rng.choice([-1.0, 1.0], 60)
    statistic = level + 2.0 * effect * coins + 0.5 * rng.normal(size=coins.shape)
    scores = shadow_scores(statistic[:40], coins[:40], statistic[40:])
    hidden = coins[40:]
    assert area(scores[hidden], scores[~hidden]) > 0.99
    assert area(statistic[40:][hidden], statistic[40:][~hidden]) < 0.6
    nothing = level + rng.normal(size=coins.shape)
    scores = shadow_scores(nothing[:40], coins[:40], nothing[40:])
    # 2,400 guesses: the area's standard deviation is .012.
    assert abs(area(scores[hidden], scores[~hidden]) - 0.5) < 0.05
    with pytest.raises(EvaluationError, match="2 shadow runs"):
        shadow_scores(statistic[:40], np.ones((40, 60), bool), statistic[40:])


def test_the_discriminant_weighs_features_that_move_together() -> None:
    rng = np.random.default_rng(0)

    def runs(shift: float) -> np.ndarray:
        common = rng.normal(0.0, 5.0, 400)
        own = rng.normal(0.0, 0.3, 400)
        return np.stack([common + own + shift, common, np.full(400, 7.0)], axis=1)

    learnt = Discriminant(runs(1.0), runs(0.0))
    inside, outside = runs(1.0), runs(0.0)
    assert area(inside[:, 0], outside[:, 0]) < 0.65
    assert area(learnt.score(inside), learnt.score(outside)) > 0.95
