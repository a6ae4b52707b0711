from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import TrainingError
from edge_runtime.generator.layout import Layout
from edge_runtime.generator.weights import initial_weights
from edge_runtime.training import NumpyStep, OnnxStep, mean_nll, train
from edge_runtime.training.adam import Adam, cosine

from .conftest import chained_codes, flat64, random_codes


@pytest.fixture
def weights(layout):
    return initial_weights(layout, seed=0)


@pytest.mark.parametrize("make", [NumpyStep, OnnxStep])
def test_learns_nearly_the_entropy(layout, weights, make):
    """The rows' law is known, so the best possible loss is too."""
    codes, held_out = chained_codes(layout, 6000, 0), chained_codes(layout, 4000, 9)
    k = layout.cardinalities
    best = np.log(k[0])
    for d in range(1, layout.columns):
        # 0.2 / K for each code, and 0.8 more for the repeated one.
        likely = 0.8 + 0.2 / k[d]
        best -= likely * np.log(likely) + (1 - likely) * np.log(0.2 / k[d])
    result, history = train(weights, codes, layout=layout, epochs=15, batch=128, step=make(layout))
    loss = mean_nll(result, held_out, layout)
    assert best - 0.1 < loss < best + 0.15
    assert history.ended == "steps"
    assert [e.epoch for e in history.epochs] == list(range(1, 16))
    assert history.epochs[-1].steps == 15 * 47
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_same_seed_same_weights(layout, weights):
    codes = random_codes(layout, 500, 0)
    first, second, other = (
        train(weights, codes, layout=layout, steps=20, batch=64, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert flat64(first).tobytes() == flat64(second).tobytes()
    assert flat64(first).tobytes() != flat64(other).tobytes()


def test_stops_when_validation_stops_improving(layout):
    big = Layout(layout.cardinalities, 128)
    start = initial_weights(big, seed=0)
    codes, held_out = chained_codes(big, 120, 0), chained_codes(big, 2000, 5)
    result, history = train(
        start,
        codes,
        layout=big,
        epochs=400,
        batch=32,
        learning_rate=1e-2,
        validation=held_out,
        patience=4,
    )
    assert history.ended == "no improvement"
    assert len(history.epochs) == history.best_epoch + 4
    scores = [e.validation for e in history.epochs]
    assert mean_nll(result, held_out, big) == pytest.approx(min(scores), rel=1e-6)
    assert min(scores) < scores[-1]


def test_rows_of_weight_zero_do_not_count(layout, weights):
    codes = chained_codes(layout, 400, 0)
    noise = random_codes(layout, 400, 1)
    mixed = np.concatenate([codes, noise])
    shares = np.repeat(np.float32([3.0, 0.0]), 400)
    result, history = train(
        weights, mixed, layout=layout, epochs=30, batch=100, weights_of_rows=shares
    )
    equal, _ = train(weights, mixed, layout=layout, epochs=30, batch=100)
    held_out = chained_codes(layout, 1000, 5)
    assert mean_nll(result, held_out, layout) < mean_nll(equal, held_out, layout) - 0.2
    assert history.epochs[-1].loss == pytest.approx(mean_nll(result, codes, layout), abs=0.15)
    # Only the ratio of weights matters.
    scaled, _ = train(
        weights, mixed, layout=layout, epochs=30, batch=100, weights_of_rows=shares * 7
    )
    assert np.allclose(flat64(scaled), flat64(result), atol=1e-6)


def test_stop_returns_what_is_best_so_far(layout, weights):
    codes = random_codes(layout, 300, 0)
    progress: list[tuple[int, int]] = []
    result, history = train(
        weights,
        codes,
        layout=layout,
        epochs=50,
        batch=100,
        should_stop=lambda: len(progress) >= 7,
        on_progress=lambda step, steps: progress.append((step, steps)),
    )
    assert history.ended == "stopped"
    assert progress == [(i + 1, 150) for i in range(7)]
    assert history.epochs[-1].steps == 7
    assert mean_nll(result, codes, layout) < mean_nll(weights, codes, layout)
    same, history = train(weights, codes, layout=layout, epochs=2, should_stop=lambda: True)
    assert flat64(same).tobytes() == flat64(weights).tobytes()
    assert history.epochs == ()


def test_steps_may_end_within_a_pass(layout, weights):
    codes = random_codes(layout, 300, 0)
    _, history = train(weights, codes, layout=layout, steps=7, batch=100)
    assert [e.steps for e in history.epochs] == [3, 6, 7]


def test_a_single_row(layout, weights):
    codes = random_codes(layout, 1, 0)
    result, _ = train(weights, codes, layout=layout, epochs=200, learning_rate=1e-2)
    assert mean_nll(result, codes, layout) < 0.3


def test_refusals(layout, weights):
    codes = random_codes(layout, 10, 0)
    for changes in (
        {"epochs": 1, "steps": 1},
        {},
        {"epochs": 0},
        {"steps": -1},
        {"epochs": 1, "batch": 0},
        {"epochs": 1, "patience": 0},
        {"epochs": 1, "weights_of_rows": np.ones(9, np.float32)},
        {"epochs": 1, "weights_of_rows": np.full(10, -1, np.float32)},
        {"epochs": 1, "weights_of_rows": np.full(10, np.nan, np.float32)},
        {"epochs": 1, "weights_of_rows": np.zeros(10, np.float32)},
    ):
        with pytest.raises(TrainingError):
            train(weights, codes, layout=layout, **changes)
    with pytest.raises(TrainingError, match="no rows"):
        train(weights, codes[:0], layout=layout, epochs=1)
    with pytest.raises(TrainingError, match="no rows"):
        mean_nll(weights, codes[:0], layout)
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match="diverged"):
        train(weights, codes, layout=layout, epochs=5, learning_rate=1e38)


def test_adam_follows_the_published_recursion():
    rng = np.random.default_rng(0)
    size = 50
    optimiser = Adam(size)
    vector = rng.normal(size=size).astype(np.float32)
    expected, m, v = vector.astype(np.float64), np.zeros(size), np.zeros(size)
    for t in range(1, 40):
        gradient = rng.normal(size=size).astype(np.float32)
        g = gradient.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        expected -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        optimiser.update(vector, gradient, 0.01)
    assert vector == pytest.approx(expected, abs=1e-5)
    assert optimiser.step == 39


def test_cosine_ends_at_a_tenth():
    assert cosine(2.0, 0.0) == 2.0
    assert cosine(2.0, 1.0) == pytest.approx(0.2)
    assert cosine(2.0, 7.0) == pytest.approx(0.2)
    rates = [cosine(1.0, x / 10) for x in range(11)]
    assert rates == sorted(rates, reverse=True)
