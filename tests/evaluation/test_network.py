"""The scoring network: its gradient, its training, and a well-known implementation beside it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.network import Mlp, Task, fit_early


def problem(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    logit = 2 * x[:, 0] * x[:, 1] + x[:, 2]
    return x, (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)


def target_for(task: Task, rows: int, rng: np.random.Generator) -> np.ndarray:
    if task == "binary":
        return rng.integers(0, 2, rows).astype(np.float32)
    if task == "classes":
        return rng.integers(0, 3, rows)
    return rng.standard_normal(rows).astype(np.float32)


@pytest.mark.parametrize("task", ["binary", "classes", "regression"])
def test_gradient_is_that_of_the_loss(task: Task) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 5)).astype(np.float32)
    y = target_for(task, 8, rng)
    network = Mlp.create(
        inputs=5, outputs=3 if task == "classes" else 1, hidden=7, task=task, seed=1
    )
    gradient = network.gradient(x, y)
    for layer, index in ((0, (2, 3)), (1, (4,)), (2, (5, 0)), (3, (0,))):
        step = 1e-2
        losses = []
        for sign in (1, -1):
            moved = network.copy()
            moved.weights[layer][index] += np.float32(sign * step)
            losses.append(moved.loss(x, y))
        slope = (losses[0] - losses[1]) / (2 * step)
        assert gradient[layer][index] == pytest.approx(slope, abs=3e-4)


def test_reaches_what_scikit_learn_reaches() -> None:
    x, y = problem(4000, 0)
    x_test, y_test = problem(4000, 1)
    ours = fit_early(
        Mlp.create(inputs=6, task="binary", seed=0),
        x, y, max_epochs=40, batch=128, learning_rate=0.01, seed=0,
    )  # fmt: skip
    peer = MLPClassifier(
        (64,), batch_size=128, learning_rate_init=0.01, early_stopping=True, random_state=0
    ).fit(x, y)
    mine = roc_auc_score(y_test, ours.network.outputs(x_test)[:, 0])
    theirs = roc_auc_score(y_test, peer.predict_proba(x_test)[:, 1])
    assert mine > 0.8
    assert mine > theirs - 0.01


def test_same_seed_same_network_other_seed_other_network() -> None:
    x, y = problem(500, 0)

    def trained(seed: int) -> np.ndarray:
        network = Mlp.create(inputs=6, task="binary", seed=seed)
        network.train(x, y, epochs=2, batch=50, learning_rate=0.01, seed=seed)
        return network.outputs(x)

    np.testing.assert_array_equal(trained(3), trained(3))
    assert np.abs(trained(3) - trained(4)).max() > 1e-3


def test_early_stopping_returns_the_best_epoch_and_ends() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 6)).astype(np.float32)
    y = rng.integers(0, 2, 60).astype(np.float32)  # nothing to learn: it soon overfits
    fit = fit_early(
        Mlp.create(inputs=6, task="binary", seed=0),
        x, y, max_epochs=500, batch=8, learning_rate=0.02, seed=0, patience=3,
    )  # fmt: skip
    held = np.random.default_rng(0).permutation(60)[:6]
    assert fit.epochs < 100
    assert fit.validation_loss == fit.network.loss(x[held], y[held])


def test_outputs_do_not_depend_on_the_block() -> None:
    x, _ = problem(100, 0)
    network = Mlp.create(inputs=6, task="binary", seed=0)
    np.testing.assert_allclose(network.outputs(x, block=7), network.outputs(x), atol=1e-6)


def test_large_logits_stay_finite() -> None:
    network = Mlp.create(inputs=2, task="binary", seed=0)
    x = np.array([[1e4, 0], [-1e4, 0]], np.float32)
    y = np.array([0, 1], np.float32)
    assert np.isfinite(network.loss(x, y))
    assert all(np.isfinite(g).all() for g in network.gradient(x, y))


def test_refusals() -> None:
    with pytest.raises(EvaluationError, match="one output"):
        Mlp.create(inputs=2, outputs=2, task="binary", seed=0)
    network = Mlp.create(inputs=6, task="binary", seed=0)
    x, y = problem(9, 0)
    with pytest.raises(EvaluationError, match="too few"):
        fit_early(network, x, y, max_epochs=1, batch=4, learning_rate=0.01, seed=0)
    assert network.parameters == 6 * 64 + 64 + 64 + 1
