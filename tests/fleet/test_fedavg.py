"""The federated peer, and the process that measures the baselines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation import Mlp
from edge_runtime.fleet import baselines
from edge_runtime.fleet.fedavg import FEDAVG_CHOICE, FedAvgChoice, federated_average
from edge_runtime.fleet.flights import FlightsData

QUICK = FedAvgChoice(rounds=12, epochs=1, batch=32, learning_rate=0.01, final_rate=0.05, hidden=16)


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 5)).astype(np.float32)
    logit = 2 * x[:, 0] * x[:, 1] + x[:, 2]
    return x, (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)


def skewed(devices: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every device sees a narrow slice of one input."""
    x, y = rows(3000, 0)
    order = np.argsort(x[:, 0])
    return [(x[part], y[part]) for part in np.array_split(order, devices)]


def test_it_learns_what_no_device_can_learn_alone() -> None:
    devices = skewed(6)
    x, y = rows(2000, 1)
    together = federated_average(devices, choice=QUICK, seed=0)
    federated = roc_auc_score(y, together.network.outputs(x)[:, 0])
    alone = []
    for position in range(6):
        single = federated_average([devices[position]], choice=QUICK, seed=0)
        alone.append(roc_auc_score(y, single.network.outputs(x)[:, 0]))
    assert federated > np.mean(alone) + 0.05
    assert together.bytes_up_per_device == 12 * 4 * together.network.parameters
    assert together.best_round == together.rounds == 12


def test_one_device_and_one_round_is_local_training() -> None:
    x, y = rows(300, 0)
    choice = replace(QUICK, rounds=1)
    averaged = federated_average([(x, y)], choice=choice, seed=0).network
    local = Mlp.create(inputs=5, hidden=16, task="binary", seed=0)
    local.train(x, y, epochs=1, batch=32, learning_rate=0.01, seed=1000)
    # seed of round 1, first device: (0 * 1000 + 1) * 1000 + 0
    for one, two in zip(averaged.weights, local.weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_devices_count_by_their_rows() -> None:
    x, y = rows(400, 0)
    large, small = (x[:390], y[:390]), (x[390:], y[390:])
    choice = replace(QUICK, rounds=1)
    both = federated_average([large, small], choice=choice, seed=0).network.weights[0]
    only = federated_average([large], choice=choice, seed=0).network.weights[0]
    start = Mlp.create(inputs=5, hidden=16, task="binary", seed=0).weights[0]
    assert np.abs(both - only).max() < 0.1 * np.abs(only - start).max()


def test_validation_rows_pick_the_round() -> None:
    devices = [(x[:20], y[:20]) for x, y in skewed(3)]  # overfits soon
    check = rows(500, 2)
    choice = replace(QUICK, rounds=60, learning_rate=0.05, final_rate=1.0)
    seen: list[int] = []
    result = federated_average(
        devices, choice=choice, validation=check, seed=0, on_round=seen.append
    )
    assert seen == list(range(1, 61))
    assert len(result.validation_loss) == 60
    assert result.best_round == int(np.argmin(result.validation_loss)) + 1 < 60
    assert result.network.loss(*check) == pytest.approx(min(result.validation_loss))


def test_devices_without_rows_are_skipped() -> None:
    x, y = rows(100, 0)
    choice = replace(QUICK, rounds=1)
    one = federated_average([(x[:0], y[:0]), (x, y)], choice=choice).network
    two = federated_average([(x, y)], choice=choice).network
    np.testing.assert_array_equal(one.weights[0], two.weights[0])
    with pytest.raises(EvaluationError, match="no device"):
        federated_average([(x[:0], y[:0])])


def test_the_published_choice_is_fifty_rounds_of_the_scoring_network() -> None:
    assert FEDAVG_CHOICE.rounds == 50
    assert FEDAVG_CHOICE.hidden == 64


def test_baselines_are_measured_on_prepared_data(
    small_data: FlightsData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "baselines.json"
    directory = str(small_data.schema_path.parent)
    assert baselines.main(["--data", directory, "--out", str(out)]) == 0
    real, local, federated = json.loads(out.read_text())
    assert [b["kind"] for b in (real, local, federated)] == ["real", "local", "federated"]
    assert 0.55 < local["value"] < real["value"] < 0.85
    assert 0.55 < federated["value"] < 0.85
    assert real["rows"] <= small_data.rows
    assert "mean of 3 devices" in local["note"]
    assert baselines.main(["--data", str(tmp_path), "--out", str(out)]) != 0
    assert "does not hold prepared flights" in capsys.readouterr().err
