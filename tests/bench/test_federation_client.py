"""The peers' private step and control variates, against their definitions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edge_runtime.evaluation.network import Mlp
from edge_runtime.privacy import rdp_subsampled_gaussian, to_epsilon

sys.path.insert(0, str(Path(__file__).parents[2]))  # tools/ is not installed

from tools.bench.federation.client import (
    Choice,
    Client,
    OneByOne,
    flatten,
    noise_multiplier,
    unflatten,
)
from tools.bench.federation.lockstep import Lockstep
from tools.bench.federation.scaffold import run_scaffold


def _client(*, choice: Choice, rows: int = 12, epsilon: float | None = None) -> Client:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    y = rng.integers(0, 3, rows).astype(np.float32)
    return Client(x, y, kind="classes", shapes=_shapes(), choice=choice, epsilon=epsilon, seed=1)


def _network() -> Mlp:
    return Mlp.create(inputs=5, outputs=3, hidden=7, task="classes", seed=2)


def _shapes() -> list[tuple[int, ...]]:
    return [layer.shape for layer in _network().weights]


@pytest.mark.parametrize("clip", [0.3, 2.0, 1e6])
def test_every_examples_gradient_is_clipped_on_its_own(clip: float) -> None:
    choice = Choice(learning_rate=1.0, sampling=1.0, steps=1, clip=clip)
    client = _client(choice=choice, epsilon=1e9)
    network = _network()
    expected = np.zeros(sum(w.size for w in network.weights), np.float64)
    for row in range(client.rows):
        one = flatten(network.gradient(client.x[[row]], client.y[[row]])).astype(np.float64)
        expected += one * min(1.0, clip / np.linalg.norm(one))
    client.noise = 0.0
    got, _ = client.train(flatten(network.weights), rate=1.0)
    moved = flatten(network.weights) - got
    np.testing.assert_allclose(moved, expected / client.rows, rtol=1e-4, atol=1e-6)


def test_noise_has_the_accountants_size_on_an_empty_sample() -> None:
    choice = Choice(learning_rate=1.0, sampling=1e-9, steps=1, clip=0.5, rounds=1)
    client = _client(choice=choice, epsilon=8.0)
    client.noise = 2.0
    start = np.zeros(sum(int(np.prod(shape)) for shape in _shapes()), np.float32)
    moved = np.concatenate([client.train(start, rate=1.0)[0] for _ in range(60)])
    expected = 2.0 * 0.5 / (1e-9 * client.rows)
    assert np.std(moved) == pytest.approx(expected, rel=0.05)


def test_all_rounds_together_cost_the_stated_epsilon() -> None:
    sigma = noise_multiplier(2.0, 0.25, 50 * 5)
    spent = to_epsilon(rdp_subsampled_gaussian(0.25, sigma, 50 * 5), 1e-5)
    assert 1.99 < spent <= 2.0


def test_layers_are_views_of_the_vector() -> None:
    vector = flatten(_network().weights)
    layers = unflatten(vector, _shapes())
    vector += 1
    np.testing.assert_array_equal(flatten(layers), vector)


def test_scaffold_follows_algorithm_1_option_2() -> None:
    # one full batch per epoch, so that nothing is random
    choice = Choice(learning_rate=0.1, rounds=3, epochs=2, batch=100)
    clients = [_client(choice=choice), _client(choice=choice, rows=24)]
    start = flatten(_network().weights)
    seen: list[np.ndarray] = []
    run_scaffold(OneByOne(clients), start, choice=choice, on_round=lambda _, w: seen.append(w))

    shares = [1 / 3, 2 / 3]
    x, c = start, np.zeros_like(start)
    variates = [np.zeros_like(start), np.zeros_like(start)]
    for number in range(3):
        local, changed = [], []
        for client, variate in zip(clients, variates, strict=True):
            y = x.copy()
            for _ in range(2):
                network = Mlp("classes", unflatten(y, _shapes()))
                y = y - 0.1 * (flatten(network.gradient(client.x, client.y)) - variate + c)
            local.append(y)
            changed.append(variate - c + (x - y) / (2 * 0.1))
        x = sum(share * y for share, y in zip(shares, local, strict=True))
        c = c + sum(p * (new - old) for p, new, old in zip(shares, changed, variates, strict=True))
        variates = changed
        np.testing.assert_allclose(seen[number], x, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("epsilon", [None, 1e9])
def test_devices_together_do_what_they_do_one_by_one(
    optimiser: Literal["sgd", "adam"], epsilon: float | None
) -> None:
    # full batches and no noise, so that nothing is random
    choice = Choice(
        learning_rate=0.1,
        optimiser=optimiser,
        epochs=3,
        batch=100,
        sampling=1.0,
        steps=3,
        clip=0.5,
    )
    clients = [_client(choice=choice, rows=rows, epsilon=epsilon) for rows in (12, 5, 30)]
    for client in clients:
        client.noise = None if epsilon is None else 0.0
    start = flatten(_network().weights)
    rng = np.random.default_rng(0)
    corrections = 0.1 * rng.normal(size=(3, start.size)).astype(np.float32)
    expected, steps = OneByOne(clients).train(start, rate=0.1, mu=0.2, corrections=corrections)
    got, got_steps = Lockstep(clients).train(start, rate=0.1, mu=0.2, corrections=corrections)
    np.testing.assert_array_equal(got_steps, steps)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_devices_together_take_the_same_number_of_steps_and_noise() -> None:
    choice = Choice(learning_rate=0.1, epochs=2, batch=8)
    clients = [_client(choice=choice, rows=rows) for rows in (12, 5, 30)]
    start = flatten(_network().weights)
    _, steps = Lockstep(clients).train(start, rate=0.1)
    assert steps.tolist() == [4, 2, 8]
    private = Choice(learning_rate=1.0, sampling=1e-9, steps=1, clip=0.5, rounds=1)
    noisy = [_client(choice=private, rows=rows, epsilon=8.0) for rows in (12, 24)]
    for client in noisy:
        client.noise = 2.0
    devices = Lockstep(noisy)
    zero = np.zeros_like(start)
    moved = np.stack([devices.train(zero, rate=1.0)[0] for _ in range(60)])
    for at, rows in enumerate((12, 24)):
        assert np.std(moved[:, at]) == pytest.approx(2.0 * 0.5 / (1e-9 * rows), rel=0.05)
